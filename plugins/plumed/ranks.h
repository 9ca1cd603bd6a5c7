/* The ranks of the engine, through the MPI that it was linked with.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef ALCHEMI_PLUMED_RANKS_H
#define ALCHEMI_PLUMED_RANKS_H

#include <memory>
#include <string>
#include <vector>

namespace alchemi_plumed {

struct Mpi; /* its functions and constants */

/* One rank, until it is told of more. MPI's functions are looked up in the process, so that nothing is
 * compiled for one MPI: those of MPICH (and its relatives) and of Open MPI are known. */
class Ranks {
public:
    Ranks();
    ~Ranks();

    /* Take the communicator at that address: an MPI_Comm, or a handle of Fortran's. */
    void take(const void *communicator, bool fortran);

    bool first() const { return rank == 0; }
    bool several() const { return size > 1; }
    int count() const { return size; }

    /* Sums over the ranks arrive on the first one. */
    void sum(std::vector<double> &values);
    /* What the first rank has, all have then. */
    void spread(std::vector<double> &values);
    void spread(std::vector<long long> &values);
    void spread(std::string &text);
    void spread(double &value);

private:
    void broadcast(void *data, size_t bytes);

    std::unique_ptr<Mpi> mpi;
    int rank = 0, size = 1;
};

} // namespace alchemi_plumed

#endif

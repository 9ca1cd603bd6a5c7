/* The model of a setup file, for one process.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef ALCHEMI_PLUMED_MODEL_H
#define ALCHEMI_PLUMED_MODEL_H

#include "alchemi_bridge.h"

#include <string>
#include <vector>

namespace alchemi_plumed {

/* A provider behind the C interface, in nm and kJ/mol. */
class Model {
public:
    /* Read the setup file (or `text`, if it is not empty) and open what it names; says so in `log`. */
    Model(const std::string &path, const std::string &text, long long n_atoms, std::string &log);
    ~Model();
    Model(const Model &) = delete;

    const std::vector<long long> &atoms() const { return indices; }
    /* Where energies are written; empty for nowhere. */
    const std::string &energies() const { return output; }
    long long every() const { return interval; }

    /* Energy of positions (3 numbers for each atom) in a box (rows; a vector of zeros is not periodic);
     * forces and dE/d(strain) are put in place. Warnings are added to what `warnings` returns. */
    double compute(std::vector<double> &positions, const double box[9], std::vector<double> &forces,
                   double virial[9]);

    /* What the model had to say since the last call. */
    std::string warnings();

private:
    void check(int32_t code) const;
    void open(const ab_setup &setup);
    void set_pairs(const double box[9], const int32_t periodic[3]);
    void require_room(const std::vector<double> &positions, const double box[9], int direction) const;
    void tell_periodic(const int32_t periodic[3]);
    static void hear(void *self, int32_t level, const char *text);

    const ab_functions *bridge;
    ab_provider *provider = nullptr;
    std::vector<long long> indices;
    std::string output, description, heard;
    long long interval = 1;
    double skin = 0.0, pair_range = 0.0;
    bool unchecked = false;
    int32_t told[3] = {-1, -1, -1};     /* periodic directions of the file */
    int32_t searched[3] = {-1, -1, -1}; /* those of the last search */
};

} // namespace alchemi_plumed

#endif

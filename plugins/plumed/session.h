/* One simulation, as the PLUMED interface tells of it.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef ALCHEMI_PLUMED_SESSION_H
#define ALCHEMI_PLUMED_SESSION_H

#include "energies.h"
#include "model.h"
#include "ranks.h"
#include "values.h"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace alchemi_plumed {

class Session {
public:
    ~Session();

    /* Carry out a command. Throws Failure, with what to tell the user. */
    void command(const std::string &name, const Value &value);

private:
    struct Command;
    static const Command *find(const std::string &name);
    void carry_out(const std::string &name, const Value &value);

    double number(const Value &value) const;
    long long whole(const Value &value) const;
    Reals reals(const Value &value) const;

    void add_input(const char *text);
    void set_atom_count(long long count);
    void set_local_indices(const Value &value, int first);
    void set_contiguous(long long start);
    void open();
    void find_rows();
    void set_box(const Value &value);
    void evaluate();
    void collect();
    void deliver(const std::vector<double> &forces, const double virial[9]);
    void update();
    void tell(const std::string &text);
    void agree(std::string problem);

    Ranks ranks;
    std::unique_ptr<Model> model; /* of the first rank, which evaluates it for all of them */
    size_t n_model = 0;           /* its atoms */
    Energies energies;

    size_t precision = sizeof(double); /* bytes of the engine's numbers */
    double energy_unit = 1.0, length_unit = 1.0, time_unit = 1.0;
    double timestep = 0.0; /* ps */
    std::string engine, setup_path, setup_text, log_path;
    std::FILE *log = nullptr;
    bool owns_log = false, restart = false, wants_virial = true;
    bool initialised = false, opened = false;

    long long n_atoms = -1, n_local = -1, contiguous_start = 0, step = 0;
    const int *local_indices = nullptr; /* the engine's numbers of the atoms that are here, ... */
    int first_index = 0;                /* ... and that of its first atom */
    std::vector<int> place;       /* of each atom of the engine among those of the model, or -1 */
    struct Row { size_t local, atom; };
    std::vector<Row> rows;        /* atoms of the model that are here */
    bool rows_are_known = false;

    Reals positions[3], forces[3], virial;
    double box[9] = {};
    std::vector<double> staged_positions, staged_forces; /* of the model's atoms: nm, kJ/mol/nm */
    double energy = 0.0;                                 /* kJ/mol */
};

} // namespace alchemi_plumed

#endif

/* The file with the energies of the model: engines do not count what comes through this interface.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef ALCHEMI_PLUMED_ENERGIES_H
#define ALCHEMI_PLUMED_ENERGIES_H

#include <chrono>
#include <cstdio>
#include <string>

namespace alchemi_plumed {

/* Lines of step, time (ps) and energy (kJ/mol), as PLUMED's tools read them. */
class Energies {
public:
    ~Energies();

    /* With `restart` the file is gone on with: lines of steps that are done again are dropped. Else one
     * of an earlier run is renamed as GROMACS does it. Anything else of that name is left alone. */
    void open(const std::string &path, bool restart);
    /* Where they go, for the log. */
    std::string told() const;
    void write(long long step, double time, double energy);
    /* See to it that all lines are in the file; a run that is killed lacks those of its last second. */
    void flush();

private:
    void start(long long step);

    std::FILE *file = nullptr;
    std::chrono::steady_clock::time_point flushed;
    std::string name;
    bool going_on = false;
};

} // namespace alchemi_plumed

#endif

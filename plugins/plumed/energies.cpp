/* The file with the energies of the model.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "energies.h"
#include "values.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace alchemi_plumed {

namespace fs = std::filesystem;

namespace {

Failure not_written(const std::string &name, const std::string &why)
{
    return Failure("energies: expected to write " + name + ", got \"" + why +
                   "\"; name another file with the keyword energies, or none");
}

} // namespace

void Energies::open(const std::string &path, bool restart)
{
    name = path;
    going_on = restart;
    if (name.empty() || restart) return;
    /* now, and not after the first step, which may take long */
    const fs::path there(name);
    std::error_code problem;
    for (int k = 1; fs::exists(there, problem); ++k) {
        const fs::path kept =
            there.parent_path() / ("#" + there.filename().string() + "." + std::to_string(k) + "#");
        if (fs::exists(kept, problem)) continue;
        fs::rename(there, kept, problem);
        if (problem) throw not_written(name, problem.message());
    }
    start(0);
}

void Energies::start(long long first)
{
    std::string kept;
    if (going_on) {
        std::ifstream old(name);
        for (std::string line; std::getline(old, line) && !old.eof();) { /* the last may be half a line */
            std::istringstream words(line);
            long long step = 0;
            if (words >> step && step < first) kept += line + '\n';
        }
    }
    const std::string unfinished = name + ".part";
    file = std::fopen(unfinished.c_str(), "w");
    if (!file) throw not_written(name, std::strerror(errno));
    std::fputs("#! FIELDS step time energy\n#! SET units ps,kJ/mol\n", file);
    std::fputs(kept.c_str(), file);
    flush();
    if (std::rename(unfinished.c_str(), name.c_str())) throw not_written(name, std::strerror(errno));
}

void Energies::write(long long step, double time, double energy)
{
    if (name.empty()) return;
    if (!file) start(step);
    if (std::fprintf(file, "%lld %.10g %.15g\n", step, time, energy) < 0)
        throw not_written(name, std::strerror(errno));
    /* not each line by itself, which would cost more than all else that is done here */
    if (std::chrono::steady_clock::now() - flushed > std::chrono::seconds(1)) flush();
}

void Energies::flush()
{
    if (file && std::fflush(file)) throw not_written(name, std::strerror(errno));
    flushed = std::chrono::steady_clock::now();
}

Energies::~Energies()
{
    if (file) std::fclose(file);
}

} // namespace alchemi_plumed

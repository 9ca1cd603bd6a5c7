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

/* As PLUMED's tools read it; and by this a file is known as one of ours. */
constexpr const char *HEADER = "#! FIELDS step time energy";

Failure not_written(const std::string &name, const std::string &why)
{
    return Failure("energies: expected to be able to write " + name + ", got \"" + why +
                   "\"; name another file with the keyword energies, or none");
}

} // namespace

void Energies::open(const std::string &path, bool restart)
{
    going_on = restart;
    if (path.empty()) return;
    std::error_code problem;
    const fs::path there = fs::weakly_canonical(path, problem); /* links are followed */
    name = problem ? path : there.string();
    if (fs::exists(there, problem)) {
        std::string first;
        if (fs::is_regular_file(there, problem)) std::getline(std::ifstream(name) >> std::ws, first);
        const bool is_empty = fs::is_regular_file(there, problem) && fs::file_size(there, problem) == 0;
        if (first != HEADER && !is_empty)
            throw not_written(name, "there is something else of that name");
    }
    if (restart) return;
    for (int k = 1; fs::exists(there, problem); ++k) {
        const fs::path kept =
            there.parent_path() / ("#" + there.filename().string() + "." + std::to_string(k) + "#");
        if (fs::exists(kept, problem)) continue;
        fs::rename(there, kept, problem);
        if (problem) throw not_written(name, problem.message());
    }
    start(0); /* now, and not after the first step, which may take long */
}

std::string Energies::told() const
{
    return name.empty() ? "Energies of the model are not written\n" : "Energies of the model: " + name + "\n";
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
    std::fprintf(file, "%s\n#! SET units ps,kJ/mol\n", HEADER);
    std::fputs(kept.c_str(), file);
    flush();
    if (std::rename(unfinished.c_str(), name.c_str())) throw not_written(name, std::strerror(errno));
}

void Energies::write(long long step, double time, double energy)
{
    if (name.empty()) return;
    if (!file) start(step);
    if (std::fprintf(file, "%lld %.12g %.15g\n", step, time, energy) < 0)
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

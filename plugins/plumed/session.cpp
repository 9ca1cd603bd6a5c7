/* One simulation, as the PLUMED interface tells of it.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Names of commands and what comes with them: PLUMED's developer manual, "Reference for interfacing MD
 * codes with PLUMED" (https://www.plumed.org/doc).
 */
#include "session.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

namespace alchemi_plumed {

namespace {

/* Version of PLUMED's interface that is spoken here: that of PLUMED 2.8 and later. */
constexpr int API_VERSION = 10;

const char *text_of(const Value &value) { return static_cast<const char *>(value.data); }

} // namespace

struct Session::Command {
    enum When { ANY, BEFORE_INIT, AFTER_INIT } when;
    void (*run)(Session &, const Value &);
    bool needs_value = true;
};

const Session::Command *Session::find(const std::string &name)
{
    using S = Session;
    using V = Value;
    constexpr auto ANY = Command::ANY, BEFORE = Command::BEFORE_INIT, AFTER = Command::AFTER_INIT;
    static const auto nothing = [](S &, const V &) {};
    static const std::unordered_map<std::string, Command> commands = {
        {"getApiVersion",
         {ANY, [](S &, const V &v) { *static_cast<int *>(const_cast<void *>(v.data)) = API_VERSION; }}},
        {"setErrorHandler", {ANY, nothing, false}},
        {"setNestedExceptions", {ANY, nothing, false}},

        /* set-up */
        {"setRealPrecision", {BEFORE, [](S &s, const V &v) {
             s.precision = static_cast<size_t>(s.whole(v));
             if (s.precision != sizeof(float) && s.precision != sizeof(double))
                 throw Failure("setRealPrecision: expected 4 or 8 bytes, got " +
                               std::to_string(s.precision) + "; use a build in single or double precision");
         }}},
        {"setMDEnergyUnits", {BEFORE, [](S &s, const V &v) { s.energy_unit = s.number(v); }}},
        {"setMDLengthUnits", {BEFORE, [](S &s, const V &v) { s.length_unit = s.number(v); }}},
        {"setMDTimeUnits", {BEFORE, [](S &s, const V &v) { s.time_unit = s.number(v); }}},
        {"setMDChargeUnits", {BEFORE, nothing}},
        {"setMDMassUnits", {BEFORE, nothing}},
        {"setKbT", {BEFORE, nothing}},
        {"setMDEngine", {BEFORE, [](S &s, const V &v) { s.engine = text_of(v); }}},
        {"setPlumedDat", {BEFORE, [](S &s, const V &v) { s.setup_path = text_of(v); }}},
        {"setLog", {BEFORE, [](S &s, const V &v) {
             s.log = static_cast<std::FILE *>(const_cast<void *>(v.data));
         }}},
        {"setLogFile", {BEFORE, [](S &s, const V &v) { s.log_path = text_of(v); }}},
        {"setNatoms", {ANY, [](S &s, const V &v) { s.set_atom_count(s.whole(v)); }}},
        {"setTimestep", {BEFORE, [](S &s, const V &v) { s.timestep = s.number(v); }}},
        {"setRestart", {BEFORE, [](S &s, const V &v) { s.restart = s.whole(v) != 0; }}},
        {"setNoVirial", {BEFORE, [](S &s, const V &) { s.wants_virial = false; }, false}},
        {"setMPIComm", {BEFORE, [](S &s, const V &v) { s.ranks.take(v.data, false); }}},
        {"setMPIFComm", {BEFORE, [](S &s, const V &v) { s.ranks.take(v.data, true); }}},
        {"readInputLine", {ANY, [](S &s, const V &v) { s.add_input(text_of(v)); }}},
        {"readInputLines", {ANY, [](S &s, const V &v) { s.add_input(text_of(v)); }}},
        {"init", {BEFORE, [](S &s, const V &) {
             s.initialised = true;
             /* lines of input come after this */
             if (!s.setup_path.empty()) s.open();
         }, false}},

        /* atoms */
        {"setAtomsNlocal", {AFTER, [](S &s, const V &v) {
             s.n_local = s.whole(v);
             s.rows_are_known = false;
         }}},
        {"setAtomsGatindex", {AFTER, [](S &s, const V &v) { s.set_local_indices(v, 0); }, false}},
        {"setAtomsFGatindex", {AFTER, [](S &s, const V &v) { s.set_local_indices(v, 1); }, false}},
        {"setAtomsContiguous", {AFTER, [](S &s, const V &v) { s.set_contiguous(s.whole(v)); }}},

        /* a step */
        {"setStep", {AFTER, [](S &s, const V &v) { s.step = s.whole(v); }}},
        {"setStepLong", {AFTER, [](S &s, const V &v) { s.step = *static_cast<const long *>(v.data); }}},
        {"setStepLongLong",
         {AFTER, [](S &s, const V &v) { s.step = *static_cast<const long long *>(v.data); }}},
        {"setBox", {AFTER, [](S &s, const V &v) { s.set_box(v); }, false}},
        {"setPositions", {AFTER, [](S &s, const V &v) {
             for (size_t k = 0; k < 3; ++k) s.positions[k] = s.reals(v).component(k);
         }, false}},
        {"setPositionsX", {AFTER, [](S &s, const V &v) { s.positions[0] = s.reals(v); }, false}},
        {"setPositionsY", {AFTER, [](S &s, const V &v) { s.positions[1] = s.reals(v); }, false}},
        {"setPositionsZ", {AFTER, [](S &s, const V &v) { s.positions[2] = s.reals(v); }, false}},
        {"setForces", {AFTER, [](S &s, const V &v) {
             for (size_t k = 0; k < 3; ++k) s.forces[k] = s.reals(v).component(k);
         }, false}},
        {"setForcesX", {AFTER, [](S &s, const V &v) { s.forces[0] = s.reals(v); }, false}},
        {"setForcesY", {AFTER, [](S &s, const V &v) { s.forces[1] = s.reals(v); }, false}},
        {"setForcesZ", {AFTER, [](S &s, const V &v) { s.forces[2] = s.reals(v); }, false}},
        {"setVirial", {AFTER, [](S &s, const V &v) { s.virial = s.reals(v); }, false}},
        {"setMasses", {AFTER, nothing, false}},
        {"setCharges", {AFTER, nothing, false}},
        {"setEnergy", {AFTER, nothing, false}},
        {"setStopFlag", {AFTER, nothing, false}}, /* it stays as the engine has set it */
        {"isEnergyNeeded",
         {AFTER, [](S &, const V &v) { *static_cast<int *>(const_cast<void *>(v.data)) = 0; }}},
        {"prepareDependencies", {AFTER, nothing, false}},
        {"shareData", {AFTER, nothing, false}},
        {"prepareCalc", {AFTER, nothing, false}},
        {"performCalc", {AFTER, [](S &s, const V &) { s.evaluate(); s.update(); }, false}},
        {"calc", {AFTER, [](S &s, const V &) { s.evaluate(); s.update(); }, false}},
        {"performCalcNoUpdate", {AFTER, [](S &s, const V &) { s.evaluate(); }, false}},
        {"update", {AFTER, [](S &s, const V &) { s.update(); }, false}},
        {"getBias",
         {AFTER, [](S &s, const V &v) { s.reals(v).set(0, s.energy / s.energy_unit); }}},
        {"doCheckPoint", {AFTER, [](S &s, const V &) { s.energies.flush(); }, false}},
        {"runFinalJobs", {AFTER, [](S &s, const V &) { s.energies.flush(); }, false}},
    };
    const auto found = commands.find(name);
    return found == commands.end() ? nullptr : &found->second;
}

void Session::command(const std::string &name, const Value &value)
{
    try {
        carry_out(name, value);
    } catch (const Failure &failure) {
        throw Failure(std::string("alchemi_bridge: ") + failure.what());
    }
}

void Session::carry_out(const std::string &name, const Value &value)
{
    const Command *found = find(name);
    if (!found)
        throw Failure("command '" + name + "' of the PLUMED interface: expected one that a force provider "
                      "can carry out, got one that it does not know; use PLUMED itself for what it is for");
    if (found->when != Command::ANY && (found->when == Command::AFTER_INIT) != initialised)
        throw Failure("command '" + name + "': expected " + (initialised ? "before" : "after") +
                      " init, got the other order");
    if (found->needs_value && !value.data)
        throw Failure("command '" + name + "': expected an address, got none");
    found->run(*this, value);
}

Session::~Session()
{
    if (owns_log) std::fclose(log);
}

/* --- values --------------------------------------------------------------------------------- */

/* A number of the set-up. One in single precision is taken for the shortest decimal that it may have
 * been: a time step of 0.002 is that, and not 0.0020000000949949026. */
double Session::number(const Value &value) const
{
    const Reals found = reals(value);
    if (found.width != sizeof(float)) return found.get(0);
    const float single = static_cast<float>(found.get(0));
    char text[32];
    for (int digits = 6; digits <= 9; ++digits) {
        std::snprintf(text, sizeof text, "%.*g", digits, static_cast<double>(single));
        if (std::strtof(text, nullptr) == single) break;
    }
    return std::strtod(text, nullptr);
}

Reals Session::reals(const Value &value) const
{
    Reals found;
    found.data = const_cast<void *>(value.data);
    found.width = value.size_if(Value::FLOATING, precision);
    if (found.width != sizeof(float) && found.width != sizeof(double))
        throw Failure("numbers: expected 4 or 8 bytes, got " + std::to_string(found.width));
    return found;
}

long long Session::whole(const Value &value) const
{
    if (value.size_if(Value::INTEGER, sizeof(int)) == sizeof(long long))
        return *static_cast<const long long *>(value.data);
    return *static_cast<const int *>(value.data);
}

/* --- set-up --------------------------------------------------------------------------------- */

void Session::add_input(const char *text)
{
    if (opened || !setup_path.empty())
        throw Failure("input: expected all of it in one place and before the first step, got a line "
                      "besides; write it into the file");
    setup_text += std::string(text) + '\n';
}

void Session::set_atom_count(long long count)
{
    if (initialised && count != n_atoms)
        throw Failure("number of atoms: expected " + std::to_string(n_atoms) +
                      ", as at the start, got " + std::to_string(count) +
                      "; start a new run when it changes");
    n_atoms = count;
}

void Session::open()
{
    std::string problem;
    std::vector<long long> atoms;
    if (ranks.first()) {
        try {
            if (n_atoms < 0) throw Failure("number of atoms: expected setNatoms before init, got none");
            if (setup_path.empty() && setup_text.empty())
                throw Failure("setup file: expected one (gmx mdrun -plumed bridge.dat), got none");
            std::string said;
            model = std::make_unique<Model>(setup_path, setup_text, n_atoms, said);
            energies.open(model->energies(), restart);
            said += energies.told();
            atoms = model->atoms();
            tell(said);
        } catch (const std::exception &error) {
            problem = error.what();
        }
    }
    agree(problem);
    ranks.spread(atoms);
    n_model = atoms.size();
    place.assign(static_cast<size_t>(n_atoms), -1);
    for (size_t k = 0; k < n_model; ++k) place[static_cast<size_t>(atoms[k])] = static_cast<int>(k);
    opened = true;
}

/* All ranks fail if the first one has a problem. */
void Session::agree(std::string problem)
{
    ranks.spread(problem);
    if (problem.empty()) return;
    tell(problem + "\n");
    try {
        energies.flush(); /* the engine may end without another word */
    } catch (const Failure &) {
        /* there is a problem already */
    }
    throw Failure(problem);
}

void Session::tell(const std::string &text)
{
    if (!ranks.first() || text.empty()) return;
    if (!log && !log_path.empty()) {
        log = std::fopen(log_path.c_str(), restart ? "a" : "w");
        owns_log = log != nullptr;
        if (!log) std::fprintf(stderr, "alchemi_bridge: no log %s (%s)\n", log_path.c_str(), std::strerror(errno));
        log_path.clear();
    }
    std::fputs(text.c_str(), log ? log : stderr);
    if (log) std::fflush(log);
}

/* --- atoms ---------------------------------------------------------------------------------- */

void Session::set_local_indices(const Value &value, int first)
{
    if (value.data && value.size_if(Value::INTEGER, sizeof(int)) != sizeof(int))
        throw Failure("indices of local atoms: expected int, got integers of another size");
    local_indices = static_cast<const int *>(value.data);
    first_index = first;
    rows_are_known = false;
}

void Session::set_contiguous(long long start)
{
    contiguous_start = start;
    local_indices = nullptr;
    rows_are_known = false;
}

/* Which of the atoms here the model sees. Engines reuse the array of indices: it is read each time
 * that they hand it over. */
void Session::find_rows()
{
    rows.clear();
    std::vector<bool> seen(n_model, false);
    const long long here = n_local >= 0 ? n_local : ranks.several() ? 0 : n_atoms;
    for (long long k = 0; k < here; ++k) {
        const long long atom = local_indices ? local_indices[k] - first_index : k + contiguous_start;
        if (atom < 0 || atom >= n_atoms)
            throw Failure("index of a local atom: expected 0 to " + std::to_string(n_atoms - 1) +
                          ", got " + std::to_string(atom));
        const int there = place[static_cast<size_t>(atom)];
        if (there < 0) continue;
        const size_t row = static_cast<size_t>(there);
        if (seen[row])
            throw Failure("atoms of the model: expected each once, got atom " + std::to_string(atom + 1) +
                          " again");
        seen[row] = true;
        rows.push_back({static_cast<size_t>(k), row});
    }
    rows_are_known = true;
}

/* --- a step --------------------------------------------------------------------------------- */

void Session::set_box(const Value &value)
{
    for (size_t k = 0; k < 9; ++k) box[k] = value.data ? reals(value).get(k) * length_unit : 0.0;
}

/* Positions of the model's atoms, on the first rank. */
void Session::collect()
{
    const size_t n = 3 * n_model;
    auto &all = staged_positions;
    all.assign(n + 3, 0.0);
    std::string problem;
    try {
        if (!rows_are_known) find_rows();
        if (!rows.empty() && !(positions[0] && positions[1] && positions[2]))
            throw Failure("positions: expected them before the evaluation, got none");
        for (const Row &row : rows)
            for (size_t axis = 0; axis < 3; ++axis)
                all[3 * row.atom + axis] = positions[axis].get(row.local) * length_unit;
    } catch (const Failure &failure) {
        problem = failure.what(); /* the others wait in the sum */
    }
    /* how many atoms there are, and the sum of their numbers: whether each came once */
    all[n] = static_cast<double>(rows.size());
    for (const Row &row : rows) all[n + 1] += static_cast<double>(row.atom);
    all[n + 2] = problem.empty() ? 0.0 : 1.0;
    ranks.sum(all);
    if (!problem.empty()) throw Failure(problem);
    if (!ranks.first()) return;
    if (all[n + 2] > 0.0) throw Failure("another rank has failed; see what it says");
    const double count = static_cast<double>(n_model);
    if (all[n] != count || all[n + 1] != 0.5 * count * (count - 1.0))
        throw Failure("atoms of the model: expected each of " + std::to_string(n_model) +
                      " once among all ranks, got " + std::to_string(static_cast<long long>(all[n])) +
                      ", or one of them twice");
    all.resize(n);
}

void Session::evaluate()
{
    if (!opened) open();
    std::string problem;
    double stress[9] = {};
    try {
        collect();
        if (model && step < 0 && engine == "gromacs")
            throw Failure("integrator: expected one of molecular dynamics, got a minimiser, which decides by "
                          "an energy that lacks the model's; minimise with another engine, such as ASE");
        if (model) energy = model->compute(staged_positions, box, staged_forces, stress);
    } catch (const std::exception &error) {
        problem = error.what();
        if (!ranks.first()) std::fprintf(stderr, "alchemi_bridge: %s\n", error.what());
    }
    agree(problem);
    ranks.spread(staged_forces);
    ranks.spread(energy);
    if (model) tell(model->warnings());
    deliver(staged_forces, stress);
}

void Session::deliver(const std::vector<double> &all, const double stress[9])
{
    const double force_unit = energy_unit / length_unit;
    if (forces[0] && forces[1] && forces[2])
        for (const Row &row : rows)
            for (size_t axis = 0; axis < 3; ++axis)
                forces[axis].add(row.local, all[3 * row.atom + axis] / force_unit);
    /* the engine sums over its ranks */
    if (virial && wants_virial && ranks.first())
        for (size_t k = 0; k < 9; ++k) virial.add(k, stress[k] / energy_unit);
}

void Session::update()
{
    std::string problem;
    try {
        if (model && step % model->every() == 0)
            energies.write(step, static_cast<double>(step) * timestep * time_unit, energy);
    } catch (const std::exception &error) {
        problem = error.what();
    }
    agree(problem);
}

} // namespace alchemi_plumed

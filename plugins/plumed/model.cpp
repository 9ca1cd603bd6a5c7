/* The model of a setup file, for one process.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "model.h"
#include "values.h"

#include "alchemi_bridge_loader.h"

#include <algorithm>
#include <cmath>

namespace alchemi_plumed {

using alchemi_bridge::describe;

Model::Model(const std::string &path, const std::string &text, long long n_atoms, std::string &log)
{
    std::string problem;
    bridge = alchemi_bridge::load(alchemi_bridge::library_or(AB_LIBRARY), problem);
    if (!bridge) throw Failure(problem);
    ab_setup setup = {};
    setup.struct_size = sizeof setup;
    check(bridge->read_setup(path.c_str(), text.empty() ? nullptr : text.c_str(), n_atoms, &setup));
    try {
        open(setup);
    } catch (...) {
        bridge->release_setup(&setup);
        throw;
    }
    bridge->release_setup(&setup);
    log += description + "\n" + std::to_string(indices.size()) + " of " + std::to_string(n_atoms) +
           " atoms\n" + warnings();
}

void Model::open(const ab_setup &setup)
{
    indices.assign(setup.atoms, setup.atoms + setup.n_atoms);
    output = setup.energies ? setup.energies : "";
    interval = setup.every;
    skin = setup.skin;
    unchecked = setup.unchecked != 0;
    std::copy(setup.periodic, setup.periodic + 3, told);

    ab_options options = {};
    options.struct_size = sizeof options;
    options.version = ALCHEMI_BRIDGE_VERSION;
    options.model = setup.model;
    options.length_unit = "nm";
    options.energy_unit = "kJ/mol";
    options.keywords = setup.keywords;
    options.n_keywords = setup.n_keywords;
    options.local_rank = -1;
    options.local_size = -1;
    options.log = hear;
    options.log_user = this;
    check(bridge->open(&options, &provider));
    try {
        std::vector<int64_t> numbers(indices.begin(), indices.end());
        for (auto &number : numbers) ++number; /* as engines and their files count */
        const int64_t n = setup.n_atoms;
        ab_atoms atoms = {};
        atoms.struct_size = sizeof atoms;
        atoms.types = describe(setup.types, AB_INT32, {n});
        atoms.ids = describe(numbers.data(), AB_INT64, {n});
        ab_requirements needs = {};
        needs.struct_size = sizeof needs;
        check(bridge->requirements(provider, &needs));
        if (needs.n_inputs > 0)
            throw Failure(std::string("model: expected one that needs atoms and box only, got one that asks "
                                      "for ") +
                          needs.inputs[0] + ", too, which is not handed over here; use another model");
        check(bridge->set_atoms(provider, &atoms));
        description = needs.description;
        pair_range = needs.pair_range;
    } catch (...) {
        bridge->close(provider);
        throw;
    }
}

Model::~Model() { bridge->close(provider); }

void Model::check(int32_t code) const
{
    if (code != AB_OK) throw Failure(bridge->message());
}

void Model::set_pairs(const double box[9], const int32_t periodic[3])
{
    ab_pairs pairs = {};
    pairs.struct_size = sizeof pairs;
    pairs.kind = AB_PAIRS_SEARCH;
    pairs.reach = skin;
    std::copy(box, box + 9, pairs.cell);
    std::copy(periodic, periodic + 3, pairs.periodic);
    check(bridge->set_pairs(provider, &pairs));
    std::copy(periodic, periodic + 3, searched);
}

double Model::compute(std::vector<double> &positions, const double box[9], std::vector<double> &forces,
                      double virial[9])
{
    const int64_t n = static_cast<int64_t>(indices.size());
    ab_step step = {};
    step.struct_size = sizeof step;
    step.positions = describe(positions.data(), AB_FLOAT64, {n, 3});
    std::copy(box, box + 9, step.cell);
    for (int k = 0; k < 3; ++k) {
        const bool is_there = box[3 * k] != 0.0 || box[3 * k + 1] != 0.0 || box[3 * k + 2] != 0.0;
        step.periodic[k] = told[k] >= 0 ? told[k] : is_there;
        if (is_there && !step.periodic[k] && !unchecked) require_room(positions, box, k);
    }
    /* the search is the provider's own: it follows atoms and box, but for this */
    if (!std::equal(searched, searched + 3, step.periodic)) {
        set_pairs(box, step.periodic);
        tell_periodic(step.periodic);
    }

    double energy = 0.0;
    forces.assign(3 * n, 0.0);
    std::fill(virial, virial + 9, 0.0);
    ab_buffers out = {};
    out.struct_size = sizeof out;
    out.forces = describe(forces.data(), AB_FLOAT64, {n, 3});
    out.energy = describe(&energy, AB_FLOAT64, {1});
    out.virial = describe(virial, AB_FLOAT64, {3, 3});
    check(bridge->compute(provider, &step, &out));
    return energy;
}

void Model::tell_periodic(const int32_t periodic[3])
{
    std::string letters;
    for (int k = 0; k < 3; ++k)
        if (periodic[k]) letters += "xyz"[k];
    heard += "Periodic directions: " + (letters.empty() ? "none" : letters) +
             (told[0] < 0 ? ", after the box; to be corrected with the keyword periodic (pbc = xy in GROMACS)\n"
                          : ", as the setup file says\n");
}

/* An engine whose box has a vector there moves atoms across it, and then what was one molecule is two
 * halves far apart. That does no harm as long as there is room for the range of the model between them:
 * halves would be seen as too long a molecule. */
void Model::require_room(const std::vector<double> &positions, const double box[9], int direction) const
{
    const double *one = box + 3 * ((direction + 1) % 3), *other = box + 3 * ((direction + 2) % 3);
    const double normal[3] = {one[1] * other[2] - one[2] * other[1], one[2] * other[0] - one[0] * other[2],
                              one[0] * other[1] - one[1] * other[0]};
    const double area = std::sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]);
    if (area == 0.0) return; /* the engine gives no box there, and wraps nothing */
    const auto along = [&](const double *x) {
        return (x[0] * normal[0] + x[1] * normal[1] + x[2] * normal[2]) / area;
    };
    double low = along(positions.data()), high = low;
    for (size_t k = 3; k < positions.size(); k += 3) {
        low = std::min(low, along(positions.data() + k));
        high = std::max(high, along(positions.data() + k));
    }
    const double room = std::abs(along(box + 3 * direction)) - (high - low);
    if (room < pair_range)
        throw Failure(std::string("periodic in the setup file: expected room of ") + std::to_string(pair_range) +
                      " nm, the range of the model, between the atoms and the box along " +
                      "xyz"[direction] + ", got " + std::to_string(room) +
                      " nm; the engine may have moved atoms across the box. Make it larger or put the "
                      "atoms into its middle, or, if the engine is not periodic there either (pbc = xy "
                      "in GROMACS), add the word unchecked");
}

std::string Model::warnings()
{
    std::string said;
    said.swap(heard);
    return said;
}

void Model::hear(void *self, int32_t level, const char *text)
{
    auto model = static_cast<Model *>(self);
    model->heard += (level == AB_LOG_WARNING ? "WARNING: " : "") + std::string(text) + "\n";
}

} // namespace alchemi_plumed

/* The model of a setup file, for one process.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "model.h"
#include "values.h"

#include "alchemi_bridge_loader.h"

#include <algorithm>
#include <cstring>

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
        check(bridge->set_atoms(provider, &atoms));
        ab_requirements needs = {};
        needs.struct_size = sizeof needs;
        check(bridge->requirements(provider, &needs));
        description = needs.description;
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
    }
    /* the search is the provider's own: it follows atoms and box, but for this */
    if (!std::equal(searched, searched + 3, step.periodic)) set_pairs(box, step.periodic);

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

/* gmx::AlchemiGpuForceProvider: metatomic models as an IGpuForceProvider.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "alchemi_gpuforceprovider_impl.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>

#include "gromacs/gpu_utils/devicebuffer.h"
#include "gromacs/gpu_utils/gpu_utils.h"
#include "gromacs/mdtypes/simulation_workload.h"

namespace gmx
{

using alchemi::refuse;
using alchemi::textOf;

namespace
{

// Energy, then the virial row by row: dE/d(strain) as the bridge adds it.
constexpr int c_numScalars = 10;

// GROMACS' virial is -1/2 sum x (x) f.
constexpr double c_virialFactor = 0.5;

} // namespace

AlchemiGpuForceProvider::Impl::Impl(const AlchemiOptions& options,
                                    const DeviceContext&  deviceContext,
                                    const DeviceStream&   deviceStream) :
    options_(options),
    deviceContext_(deviceContext),
    deviceStream_(deviceStream),
    arrays_(options.deviceId)
{
    if (!(options_.pairlistBuffer >= 0) || !std::isfinite(options_.pairlistBuffer))
    {
        refuse(AB_ERROR_CONFIGURATION,
               "pairlistBuffer",
               "a length of zero or more, in nm",
               textOf(options_.pairlistBuffer),
               "correct it");
    }
    if (!options_.modelAtoms.empty())
    {
        isModelAtom_.assign(options_.atomicNumbers.size(), false);
        for (const int atom : options_.modelAtoms)
        {
            if (atom < 0 || atom >= static_cast<int>(isModelAtom_.size()))
            {
                refuse(AB_ERROR_CONFIGURATION,
                       "modelAtoms",
                       "global indices below " + std::to_string(isModelAtom_.size()),
                       std::to_string(atom),
                       "name atoms that have an atomic number");
            }
            isModelAtom_[atom] = true;
        }
    }
    std::string problem;
    bridge_ = alchemi_bridge::load(options_.library, problem);
    if (bridge_ == nullptr)
    {
        throw AlchemiError(AB_ERROR_INTERNAL, "alchemi_bridge: " + problem);
    }
    const std::string device =
            alchemi::c_memory == AB_CUDA ? "cuda:" + std::to_string(options_.deviceId) : "cpu";
    std::vector<const char*> words = { "device", device.c_str() };
    for (const auto& keyword : options_.keywords)
    {
        words.push_back(keyword.first.c_str());
        words.push_back(keyword.second.c_str());
    }
    ab_options given  = {};
    given.struct_size = sizeof given;
    given.version     = ALCHEMI_BRIDGE_VERSION;
    given.model       = options_.model.c_str();
    given.length_unit = "nm";
    given.energy_unit = "kJ/mol";
    given.keywords    = words.data();
    given.n_keywords  = static_cast<int32_t>(words.size() / 2);
    given.local_rank  = -1;
    given.local_size  = -1;
    given.log         = options_.warn ? &Impl::log : nullptr;
    given.log_user    = this;
    check(bridge_->open(&given, &provider_));
    try
    {
        needs_.struct_size = sizeof needs_;
        check(bridge_->requirements(provider_, &needs_));
        allocateDeviceBuffer(&scalars_, c_numScalars, deviceContext_);
    }
    catch (...)
    {
        bridge_->close(provider_);
        throw;
    }
}

AlchemiGpuForceProvider::Impl::~Impl()
{
    bridge_->close(provider_);
    try
    {
        freeDeviceBuffer(&scalars_);
    }
    catch (const std::exception& error)
    {
        std::fprintf(stderr, "alchemi_bridge: %s\n", error.what());
    }
}

void AlchemiGpuForceProvider::Impl::log(void* self, int32_t level, const char* text)
{
    if (level != AB_LOG_WARNING)
    {
        return;
    }
    // C calls this
    try
    {
        static_cast<Impl*>(self)->options_.warn(text);
    }
    catch (...)
    {
        std::fprintf(stderr, "alchemi_bridge: %s\n", text);
    }
}

void AlchemiGpuForceProvider::Impl::check(int32_t code) const
{
    if (code == AB_OK)
    {
        return;
    }
    std::string message = std::string("alchemi_bridge: ") + bridge_->message();
    if (code == AB_ERROR_STALE)
    {
        message += " (in GROMACS: a smaller nstlist, or a larger rlist and pairlistBuffer)";
    }
    throw AlchemiError(code, message);
}

AlchemiGpuForceProvider::AlchemiGpuForceProvider(const AlchemiOptions& options,
                                                 const DeviceContext&  deviceContext,
                                                 const DeviceStream&   deviceStream) :
    impl_(std::make_unique<Impl>(options, deviceContext, deviceStream))
{
}

AlchemiGpuForceProvider::~AlchemiGpuForceProvider() = default;

real AlchemiGpuForceProvider::pairlistRange() const
{
    return static_cast<real>(impl_->needs_.pair_range) + impl_->options_.pairlistBuffer;
}

HaloNeed AlchemiGpuForceProvider::haloNeed() const
{
    HaloNeed need;
    need.shell     = HaloShell::FullShell;
    need.range     = static_cast<real>(impl_->needs_.halo_range) + impl_->options_.pairlistBuffer;
    need.haloPairs = impl_->sendsMessages();
    return need;
}

void AlchemiGpuForceProvider::reinitAtoms(const GpuForceProviderAtoms& atoms)
{
    // Until the new atoms are taken there are none: what was refused must not look like no work.
    impl_->numAtoms_  = -1;
    impl_->havePairs_ = impl_->haveWork_ = false;
    const int numSystem = static_cast<int>(impl_->options_.atomicNumbers.size());
    const int numNamed  = static_cast<int>(atoms.globalAtomIndices.size());
    const bool named = numNamed != 0;
    if (atoms.numHomeAtoms < 0 || atoms.numAtoms < atoms.numHomeAtoms
        || (named ? numNamed != atoms.numAtoms : atoms.numAtoms > numSystem))
    {
        refuse(AB_ERROR_INPUT,
               "atoms of this rank",
               "home atoms, then halo atoms, and a global index for each of them or for none",
               std::to_string(atoms.numHomeAtoms) + " home atoms, " + std::to_string(atoms.numAtoms)
                       + " atoms, " + std::to_string(numNamed) + " indices for "
                       + std::to_string(numSystem) + " atoms of the system",
               "hand over the atoms of the last partitioning");
    }
    std::vector<int32_t> types(atoms.numAtoms, 0), subset, selected;
    for (int atom = 0; atom < atoms.numAtoms; ++atom)
    {
        const int global = named ? atoms.globalAtomIndices[atom] : atom;
        if (global >= numSystem)
        {
            refuse(AB_ERROR_INPUT,
                   "global indices of atoms",
                   "numbers below " + std::to_string(numSystem),
                   std::to_string(global),
                   "give an atomic number for every atom of the system");
        }
        if (global < 0) // a filler particle
        {
            continue;
        }
        types[atom] = impl_->options_.atomicNumbers[global];
        if (impl_->isModelAtom_.empty() || impl_->isModelAtom_[global])
        {
            if (atom < atoms.numHomeAtoms)
            {
                selected.push_back(static_cast<int32_t>(subset.size()));
            }
            subset.push_back(atom);
        }
    }
    // Only energies of home atoms count. Without one there is nothing to add, not even to halo atoms.
    if (selected.empty())
    {
        impl_->numHomeAtoms_ = atoms.numHomeAtoms;
        impl_->numAtoms_     = atoms.numAtoms;
        return;
    }
    const auto indices = [](const std::vector<int32_t>& values) {
        const auto count = static_cast<int64_t>(values.size());
        return alchemi_bridge::describe(values.data(), AB_INT32, { count });
    };
    ab_atoms given    = {};
    given.struct_size = sizeof given;
    given.types       = indices(types);
    if (static_cast<int>(subset.size()) < atoms.numAtoms)
    {
        given.subset = indices(subset);
    }
    if (selected.size() < subset.size())
    {
        given.selected = indices(selected);
    }
    std::vector<int64_t> names;
    if (named)
    {
        names.assign(atoms.globalAtomIndices.begin(), atoms.globalAtomIndices.end());
        given.ids = alchemi_bridge::describe(names.data(), AB_INT64, { atoms.numAtoms });
    }
    impl_->check(impl_->bridge_->set_atoms(impl_->provider_, &given));
    impl_->numHomeAtoms_ = atoms.numHomeAtoms;
    impl_->numAtoms_     = atoms.numAtoms;
    impl_->haveWork_     = true;
}

void AlchemiGpuForceProvider::launchForces(const GpuForceProviderInput&  input,
                                           const GpuForceProviderOutput& output)
{
    impl_->haveEnergy_ = impl_->haveVirial_ = false;
    // First of all: whoever counts how often an event is consumed counts failures, too.
    for (GpuEventSynchronizer* event : { input.xLocalReadyOnDevice, input.xNonLocalReadyOnDevice })
    {
        if (event != nullptr)
        {
            event->enqueueWaitEvent(impl_->deviceStream_);
        }
    }
    if (!impl_->havePairs_)
    {
        refuse(AB_ERROR_PROTOCOL,
               "launchForces",
               "reinitPairlist before it",
               "no pair list",
               "call it at each search");
    }
    if (input.stepWork == nullptr || input.box == nullptr)
    {
        refuse(AB_ERROR_INPUT,
               "launchForces",
               "a workload and a box",
               "none",
               "fill in the whole structure");
    }
    const bool lacksForces = input.stepWork->computeForces && output.forces == nullptr;
    if (impl_->numAtoms_ > 0 && (input.x == nullptr || lacksForces))
    {
        refuse(AB_ERROR_INPUT,
               "launchForces",
               "coordinates, and a buffer for forces",
               "none",
               "allocate them");
    }
    if (impl_->haveWork_)
    {
        const StepWorkload& work  = *input.stepWork;
        ab_step             given = {};
        given.struct_size         = sizeof given;
        given.positions           = impl_->arrays_.vectors(input.x, impl_->numAtoms_);
        given.stream              = alchemi::handleOf(impl_->deviceStream_);
        alchemi::copyBox(*input.box, given.cell);
        if (!alchemi::periodicDirections(input.pbcType, given.periodic))
        {
            refuse(AB_ERROR_INPUT,
                   "pbcType",
                   "Xyz, XY or No",
                   "another one",
                   "choose one of these");
        }
        ab_buffers out  = {};
        out.struct_size = sizeof out;
        if (work.computeForces)
        {
            out.forces = impl_->arrays_.vectors(output.forces, impl_->numAtoms_);
        }
        if (work.computeEnergy || work.computeVirial)
        {
            clearDeviceBufferAsync(&impl_->scalars_, 0, c_numScalars, impl_->deviceStream_);
        }
        if (work.computeEnergy)
        {
            out.energy = impl_->arrays_(impl_->scalars_, { 1 });
        }
        if (work.computeVirial)
        {
            out.virial = impl_->arrays_(impl_->scalars_ + 1, { DIM, DIM });
        }
        impl_->check(impl_->bridge_->compute(impl_->provider_, &given, &out));
        impl_->haveEnergy_ = work.computeEnergy;
        impl_->haveVirial_ = work.computeVirial;
    }
    if (output.forcesReadyOnDevice != nullptr)
    {
        output.forcesReadyOnDevice->markEvent(impl_->deviceStream_);
    }
}

GpuForceProviderScalars AlchemiGpuForceProvider::collectScalars()
{
    GpuForceProviderScalars found;
    if (!impl_->haveEnergy_ && !impl_->haveVirial_)
    {
        return found;
    }
    std::array<double, c_numScalars> values = {};
    finish(); // also since a synchronous copy is ordered after the default stream only
    copyFromDeviceBuffer(values.data(),
                         &impl_->scalars_,
                         0,
                         c_numScalars,
                         impl_->deviceStream_,
                         GpuApiCallBehavior::Sync,
                         nullptr);
    if (impl_->haveEnergy_)
    {
        found.energy = values[0];
    }
    if (impl_->haveVirial_)
    {
        for (int row = 0; row < DIM; ++row)
        {
            for (int column = 0; column < DIM; ++column)
            {
                found.virial[row][column] =
                        static_cast<real>(c_virialFactor * values[1 + DIM * row + column]);
            }
        }
    }
    return found;
}

void AlchemiGpuForceProvider::finish()
{
    impl_->deviceStream_.synchronize();
    const int32_t code = impl_->bridge_->finish(impl_->provider_);
    if (code != AB_OK)
    {
        impl_->haveEnergy_ = impl_->haveVirial_ = false;
    }
    impl_->check(code);
}

} // namespace gmx

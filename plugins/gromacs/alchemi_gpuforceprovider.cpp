/* gmx::AlchemiGpuForceProvider: metatomic models as an IGpuForceProvider.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "alchemi_gpuforceprovider.h"

#include "config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "gromacs/gpu_utils/device_context.h"
#include "gromacs/gpu_utils/device_stream.h"
#include "gromacs/gpu_utils/devicebuffer.h"
#include "gromacs/gpu_utils/gpu_utils.h"
#include "gromacs/gpu_utils/gpueventsynchronizer.h"
#include "gromacs/mdtypes/simulation_workload.h"

#include "alchemi_gpuforceprovider_arrays.h"

namespace gmx
{

namespace
{

// GROMACS keeps radii in single precision.
constexpr double c_rounding = 1e-6;

// Energy, then the virial row by row: dE/d(strain) as the bridge adds it.
constexpr int c_numScalars = 10;

// GROMACS' virial is -1/2 sum x (x) f.
constexpr double c_virialFactor = 0.5;

std::string textOf(double number)
{
    return std::to_string(number);
}

[[noreturn]] void refuse(int code, const std::string& what, const std::string& expected, const std::string& got, const std::string& fix)
{
    throw AlchemiError(code, "alchemi_bridge: " + what + ": expected " + expected + ", got " + got + "; " + fix);
}

} // namespace

class AlchemiGpuForceProvider::Impl
{
public:
    Impl(const AlchemiOptions& options, const DeviceContext& deviceContext, const DeviceStream& deviceStream);
    ~Impl();

    void check(int32_t code) const;
    void requireHalo(const GpuForceProviderPairlists& pairlists) const;
    void setPairs(const GpuForceProviderPairlists& pairlists);
    void waitForLists(const GpuForceProviderPairlists& pairlists);
    void releaseLists(const GpuForceProviderPairlists& pairlists);

    // Whether pairs of halo atoms influence the energies of home atoms.
    bool sendsMessages() const { return needs_.halo_range > needs_.pair_range * (1.0 + c_rounding); }

    // What lies farther away than was asked for only costs time.
    double reachOf(const GpuForceProviderPairlists& pairlists) const
    {
        return std::min<double>(pairlists.rlistOuter, needs_.pair_range + options_.pairlistBuffer);
    }

    static void log(void* self, int32_t level, const char* text);

    const AlchemiOptions        options_;
    const DeviceContext&        deviceContext_;
    const DeviceStream&         deviceStream_;
    const alchemi::DeviceArrays arrays_;
    const ab_functions*         bridge_   = nullptr;
    ab_provider*                provider_ = nullptr;
    ab_requirements             needs_    = {};
    std::vector<bool>           isModelAtom_; // by global index; empty: all are

    int  numHomeAtoms_ = 0;
    int  numAtoms_     = -1;
    bool haveWork_     = false; // does the model see a home atom
    bool havePairs_    = false;

    // ten scalars on the device, and what the last step put there
    DeviceBuffer<double> scalars_     = nullptr;
    bool                 haveEnergy_  = false;
    bool                 haveVirial_  = false;

    // Marked in the stream of each list, and in ours when lists have been read; each consumed at once.
    EnumerationArray<InteractionLocality, GpuEventSynchronizer> listReady_;
    EnumerationArray<InteractionLocality, GpuEventSynchronizer> listRead_;
};

AlchemiGpuForceProvider::Impl::Impl(const AlchemiOptions& options,
                                    const DeviceContext&  deviceContext,
                                    const DeviceStream&   deviceStream) :
    options_(options), deviceContext_(deviceContext), deviceStream_(deviceStream), arrays_(options.deviceId)
{
    if (!(options_.pairlistBuffer >= 0) || !std::isfinite(options_.pairlistBuffer))
    {
        refuse(AB_ERROR_CONFIGURATION, "pairlistBuffer", "a length of zero or more, in nm", textOf(options_.pairlistBuffer), "correct it");
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
    bridge_ = alchemi_bridge::load(options_.library, &problem);
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
    freeDeviceBuffer(&scalars_);
}

void AlchemiGpuForceProvider::Impl::log(void* self, int32_t level, const char* text)
{
    if (level == AB_LOG_WARNING)
    {
        static_cast<Impl*>(self)->options_.warn(text);
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

// Whether energies of home atoms can be computed from what this rank knows.
void AlchemiGpuForceProvider::Impl::requireHalo(const GpuForceProviderPairlists& pairlists) const
{
    const HaloNeed& halo = pairlists.halo;
    if (numAtoms_ == numHomeAtoms_ && halo.shell == HaloShell::None)
    {
        return;
    }
    if (!std::isfinite(needs_.halo_range))
    {
        refuse(AB_ERROR_MODEL, "domains", "one, since the range of the model is not finite", "several", "run on one rank");
    }
    if (halo.shell != HaloShell::FullShell)
    {
        refuse(AB_ERROR_PAIRS,
               "halo",
               "the full shell, since the energy of an atom needs all its pairs on one rank",
               halo.shell == HaloShell::EighthShell ? "the eighth shell" : "halo atoms without a shell",
               "exchange halos with all neighbors, or run on one rank");
    }
    // A list holds while no atom has moved by more than half of its buffer, nor then did both ends of the
    // range by more than the whole.
    const double range = needs_.halo_range + reachOf(pairlists) - needs_.pair_range;
    if (halo.range < range * (1.0 - c_rounding))
    {
        refuse(AB_ERROR_PAIRS,
               "range of the halo",
               "at least " + textOf(range) + " nm, from where atoms may come to influence the energies of home atoms",
               textOf(halo.range) + " nm",
               "exchange wider halos");
    }
    const bool complete = halo.haloPairs && (pairlists.plistWithinHalo != nullptr || numAtoms_ == numHomeAtoms_);
    if (!complete && sendsMessages())
    {
        refuse(AB_ERROR_PAIRS,
               "pair lists",
               "pairs of halo atoms with each other, too, since the model passes messages along them",
               "not all of these",
               "list all pairs among the atoms of a rank, those within halo grids in plistWithinHalo");
    }
}

// Whoever uploads and prunes lists does so in streams of its own.
void AlchemiGpuForceProvider::Impl::waitForLists(const GpuForceProviderPairlists& pairlists)
{
    for (const auto locality : { InteractionLocality::Local, InteractionLocality::NonLocal })
    {
        if (const DeviceStream* stream = pairlists.deviceStreams[locality])
        {
            listReady_[locality].markEvent(*stream);
            listReady_[locality].enqueueWaitEvent(deviceStream_);
        }
    }
}

// Also if the list was refused: then it may have been read, too.
void AlchemiGpuForceProvider::Impl::releaseLists(const GpuForceProviderPairlists& pairlists)
{
    for (const auto locality : { InteractionLocality::Local, InteractionLocality::NonLocal })
    {
        if (const DeviceStream* stream = pairlists.deviceStreams[locality])
        {
            listRead_[locality].markEvent(deviceStream_);
            listRead_[locality].enqueueWaitEvent(*stream);
        }
    }
}

void AlchemiGpuForceProvider::Impl::setPairs(const GpuForceProviderPairlists& pairlists)
{
    struct Named
    {
        const GpuPairlist* plist;
        bool               nonLocal;
    };
    const std::array<Named, 3> lists = { { { pairlists.plistWithinHalo, false },
                                           { pairlists.plist[InteractionLocality::NonLocal], true },
                                           { pairlists.plist[InteractionLocality::Local], false } } };
    std::array<ab_pairs, 3>    given = {};
    ab_pairs*                  first = nullptr;
    for (size_t k = 0; k < lists.size(); ++k)
    {
        if (lists[k].plist == nullptr)
        {
            continue;
        }
        ab_pairs& pairs   = given[k];
        pairs.struct_size = sizeof pairs;
        pairs.kind        = AB_PAIRS_CLUSTERS;
        pairs.non_local   = lists[k].nonLocal ? 1 : 0;
        pairs.stream      = alchemi::handleOf(deviceStream_);
        pairs.rlist       = pairlists.rlistOuter;
        pairs.reach       = reachOf(pairlists);
        alchemi::copyBox(*pairlists.box, pairs.cell);
        if (!alchemi::periodicDirections(pairlists.pbcType, pairs.periodic))
        {
            refuse(AB_ERROR_PAIRS, "pbcType", "Xyz, XY or No", "another one", "choose one of these");
        }
        pairs.positions  = arrays_.vectors(pairlists.atdat->xq, pairlists.atomIndicesSize);
        pairs.atom_index = arrays_(pairlists.atomIndices, { pairlists.atomIndicesSize });
        arrays_.addTo(&pairs, *lists[k].plist, pairlists.useDynamicPruning);
        pairs.next = first;
        first      = &pairs;
    }
    check(bridge_->set_pairs(provider_, first));
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
    const int numSystem = static_cast<int>(impl_->options_.atomicNumbers.size());
    const int numNamed  = static_cast<int>(atoms.globalAtomIndices.size());
    if (atoms.numHomeAtoms < 0 || atoms.numAtoms < atoms.numHomeAtoms
        || (numNamed != 0 && numNamed != atoms.numAtoms) || (numNamed == 0 && atoms.numAtoms > numSystem))
    {
        refuse(AB_ERROR_INPUT,
               "atoms of this rank",
               "home atoms, then halo atoms, and a global index for each of them or for none",
               std::to_string(atoms.numHomeAtoms) + " home atoms, " + std::to_string(atoms.numAtoms)
                       + " atoms, " + std::to_string(numNamed) + " indices for " + std::to_string(numSystem)
                       + " atoms of the system",
               "hand over the atoms of the last partitioning");
    }
    std::vector<int32_t> types(atoms.numAtoms, 0), subset, selected;
    for (int atom = 0; atom < atoms.numAtoms; ++atom)
    {
        const int global = numNamed == 0 ? atom : atoms.globalAtomIndices[atom];
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
    // Until the new atoms are taken there are none.
    impl_->havePairs_ = impl_->haveWork_ = false;
    impl_->numHomeAtoms_                 = atoms.numHomeAtoms;
    impl_->numAtoms_                     = atoms.numAtoms;
    // Only energies of home atoms count. Without one there is nothing to add, not even to halo atoms.
    if (selected.empty())
    {
        return;
    }
    const auto indices = [](const std::vector<int32_t>& values) {
        return alchemi_bridge::describe(values.data(), AB_INT32, { static_cast<int64_t>(values.size()) });
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
    if (numNamed != 0)
    {
        names.assign(atoms.globalAtomIndices.begin(), atoms.globalAtomIndices.end());
        given.ids = alchemi_bridge::describe(names.data(), AB_INT64, { atoms.numAtoms });
    }
    impl_->check(impl_->bridge_->set_atoms(impl_->provider_, &given));
    impl_->haveWork_ = true;
}

void AlchemiGpuForceProvider::reinitPairlist(const GpuForceProviderPairlists& pairlists)
{
    if (impl_->numAtoms_ < 0)
    {
        refuse(AB_ERROR_PROTOCOL, "reinitPairlist", "reinitAtoms before it", "no atoms", "call it after each partitioning");
    }
    impl_->havePairs_ = false;
    if (pairlists.plist[InteractionLocality::Local] == nullptr || pairlists.atdat == nullptr
        || pairlists.box == nullptr || pairlists.atomIndicesSize < 0)
    {
        refuse(AB_ERROR_PAIRS,
               "pair lists",
               "a local list, atom data and a box",
               "not all of these",
               "hand over what nbnxm has on the device");
    }
    if (pairlists.plist[InteractionLocality::NonLocal] == nullptr && impl_->numAtoms_ > impl_->numHomeAtoms_)
    {
        refuse(AB_ERROR_PAIRS, "pair lists", "a non-local list, since there are halo atoms", "none", "hand over both lists");
    }
    if (pairlists.rlistOuter < impl_->needs_.pair_range * (1.0 - c_rounding))
    {
        refuse(AB_ERROR_PAIRS,
               "rlistOuter",
               "at least " + textOf(impl_->needs_.pair_range) + " nm, the cutoff of the model",
               textOf(pairlists.rlistOuter) + " nm",
               "set rlist to what pairlistRange() returns");
    }
    impl_->requireHalo(pairlists);
    if (impl_->haveWork_)
    {
        impl_->waitForLists(pairlists);
        try
        {
            impl_->setPairs(pairlists);
        }
        catch (...)
        {
            impl_->releaseLists(pairlists);
            throw;
        }
        impl_->releaseLists(pairlists);
    }
    impl_->havePairs_ = true;
}

void AlchemiGpuForceProvider::launchForces(const GpuForceProviderInput& input, const GpuForceProviderOutput& output)
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
        refuse(AB_ERROR_PROTOCOL, "launchForces", "reinitPairlist before it", "no pair list", "call it at each search");
    }
    if (input.stepWork == nullptr || input.box == nullptr)
    {
        refuse(AB_ERROR_INPUT, "launchForces", "a workload and a box", "none", "fill in the whole structure");
    }
    if (impl_->numAtoms_ > 0 && (input.x == nullptr || (input.stepWork->computeForces && output.forces == nullptr)))
    {
        refuse(AB_ERROR_INPUT, "launchForces", "coordinates, and a buffer for forces", "none", "allocate them");
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
            refuse(AB_ERROR_INPUT, "pbcType", "Xyz, XY or No", "another one", "choose one of these");
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
    // a synchronous copy is ordered after the default stream only
    impl_->deviceStream_.synchronize();
    copyFromDeviceBuffer(
            values.data(), &impl_->scalars_, 0, c_numScalars, impl_->deviceStream_, GpuApiCallBehavior::Sync, nullptr);
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

} // namespace gmx

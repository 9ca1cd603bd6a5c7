/* gmx::AlchemiGpuForceProvider: pair lists, and what a halo must hold.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "alchemi_gpuforceprovider_impl.h"

#include <array>
#include <cmath>

namespace gmx
{

using alchemi::c_rounding;
using alchemi::refuse;
using alchemi::textOf;

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
        refuse(AB_ERROR_MODEL,
               "domains",
               "one, since the range of the model is not finite",
               "several",
               "run on one rank");
    }
    if (halo.shell != HaloShell::FullShell)
    {
        refuse(AB_ERROR_PAIRS,
               "halo",
               "the full shell, since the energy of an atom needs all its pairs on one rank",
               halo.shell == HaloShell::EighthShell ? "the eighth shell" : "halo atoms without a shell",
               "exchange halos with all neighbors, or run on one rank");
    }
    // A list holds while no atom has moved by more than half of its buffer: the ends of the range have
    // then moved apart by the whole of it at most.
    const double range = needs_.halo_range + reachOf(pairlists) - needs_.pair_range;
    if (halo.range < range * (1.0 - c_rounding))
    {
        refuse(AB_ERROR_PAIRS,
               "range of the halo",
               "at least " + textOf(range) + " nm, from where atoms may come to influence home atoms",
               textOf(halo.range) + " nm",
               "exchange wider halos");
    }
    const bool haveHalo = numAtoms_ > numHomeAtoms_;
    const bool complete = halo.haloPairs && (pairlists.plistWithinHalo != nullptr || !haveHalo);
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
            refuse(AB_ERROR_PAIRS,
                   "pbcType",
                   "Xyz, XY or No",
                   "another one",
                   "choose one of these");
        }
        pairs.positions  = arrays_.vectors(pairlists.atdat->xq, pairlists.atomIndicesSize);
        pairs.atom_index = arrays_(pairlists.atomIndices, { pairlists.atomIndicesSize });
        arrays_.addTo(&pairs, *lists[k].plist, pairlists.useDynamicPruning);
        pairs.next = first;
        first      = &pairs;
    }
    check(bridge_->set_pairs(provider_, first));
}

void AlchemiGpuForceProvider::reinitPairlist(const GpuForceProviderPairlists& pairlists)
{
    if (impl_->numAtoms_ < 0)
    {
        refuse(AB_ERROR_PROTOCOL,
               "reinitPairlist",
               "reinitAtoms before it",
               "no atoms",
               "call it after each partitioning");
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
    const bool haveHalo = impl_->numAtoms_ > impl_->numHomeAtoms_;
    if (pairlists.plist[InteractionLocality::NonLocal] == nullptr && haveHalo)
    {
        refuse(AB_ERROR_PAIRS,
               "pair lists",
               "a non-local list, since there are halo atoms",
               "none",
               "hand over both lists");
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

} // namespace gmx

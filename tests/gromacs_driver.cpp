/* What GROMACS would do with an IGpuForceProvider in a search step and in the steps after it, for ctypes.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Buffers are the caller's, wherever its "device" is. See gromacs_stand_ins/README.md.
 */
#include "alchemi_gpuforceprovider.h"

#include "gromacs/gpu_utils/device_context.h"
#include "gromacs/gpu_utils/device_stream.h"
#include "gromacs/gpu_utils/gpueventsynchronizer.h"
#include "gromacs/mdtypes/md_enums.h"
#include "gromacs/mdtypes/simulation_workload.h"
#include "gromacs/nbnxm/gpu_types_common.h"

#include <array>
#include <cstring>

using namespace gmx;

extern "C"
{
struct DriverOptions
{
    const char*        library;
    const char*        model;
    const char* const* keywords;
    int                numKeywords;
    int                numAtoms;
    const int*         atomicNumbers;
    const int*         modelAtoms;
    int                numModelAtoms;
    float              pairlistBuffer;
    void*              stream;
};

struct DriverList
{
    int   numSci, numPackedJClusters, haveFreshList, given;
    void *sci, *cjPacked, *imask, *excl;
};

struct DriverSearch
{
    DriverList lists[3];
    int*       atomIndices;
    void*      xq;
    int        atomIndicesSize;
    float      rlistOuter;
    int        useDynamicPruning, pbcType, haloShell, haloPairs;
    float      haloRange;
    float      box[9];
};

struct DriverStep
{
    void *x, *forces;
    int   pbcType, computeForces, computeEnergy, computeVirial;
    float box[9];
};
}

namespace
{

std::string s_message;

struct Driver
{
    explicit Driver(const DriverOptions& given) : own(given.stream), streams{ { own_(0), own_(1) } }
    {
        AlchemiOptions options;
        options.library        = given.library;
        options.model          = given.model;
        options.pairlistBuffer = given.pairlistBuffer;
        options.atomicNumbers.assign(given.atomicNumbers, given.atomicNumbers + given.numAtoms);
        options.modelAtoms.assign(given.modelAtoms, given.modelAtoms + given.numModelAtoms);
        for (int k = 0; k < given.numKeywords; ++k)
        {
            options.keywords.emplace_back(given.keywords[2 * k], given.keywords[2 * k + 1]);
        }
        options.warn = [this](const std::string& text) {
            warnings += text + "\n";
            throw std::runtime_error("a log that fails"); // and must not stop a step
        };
        stand_in::names() = { { &own, "the provider's stream" },
                              { streams[0].get(), "the local stream" },
                              { streams[1].get(), "the non-local stream" },
                              { &xLocal, "local coordinates" },
                              { &xNonLocal, "non-local coordinates" },
                              { &forcesReady, "forces" } };
        provider = std::make_unique<AlchemiGpuForceProvider>(options, context, own);
    }

    // On a device all of them are one stream, so that the caller has one to wait for.
    std::unique_ptr<DeviceStream> own_(int) const
    {
#if GMX_GPU_CUDA
        return std::make_unique<DeviceStream>(own.stream());
#else
        return std::make_unique<DeviceStream>(nullptr);
#endif
    }

    void search(const DriverSearch& given)
    {
        for (int k = 0; k < 3; ++k)
        {
            const DriverList& list = given.lists[k];
            plists[k].numSci             = list.numSci;
            plists[k].numPackedJClusters = list.numPackedJClusters;
            plists[k].haveFreshList      = list.haveFreshList != 0;
            plists[k].sci                = static_cast<nbnxn_sci_t*>(list.sci);
            plists[k].cjPacked           = static_cast<nbnxn_cj_packed_t*>(list.cjPacked);
            plists[k].imask              = static_cast<unsigned int*>(list.imask);
            plists[k].excl               = static_cast<nbnxn_excl_t*>(list.excl);
        }
        NBAtomDataGpu atdat = {};
        atdat.xq            = static_cast<Float4*>(given.xq);
        matrix box;
        std::memcpy(box, given.box, sizeof box);
        GpuForceProviderPairlists lists;
        for (const auto locality : { InteractionLocality::Local, InteractionLocality::NonLocal })
        {
            const int k = static_cast<int>(locality);
            if (given.lists[k].given)
            {
                lists.plist[locality]         = &plists[k];
                lists.deviceStreams[locality] = streams[k].get();
            }
        }
        numReductions           = given.lists[1].given ? 2 : 1;
        lists.plistWithinHalo   = given.lists[2].given ? &plists[2] : nullptr;
        lists.atomIndices       = given.atomIndices;
        lists.atomIndicesSize   = given.atomIndicesSize;
        lists.atdat             = &atdat;
        lists.rlistOuter        = given.rlistOuter;
        lists.useDynamicPruning = given.useDynamicPruning != 0;
        lists.box               = &box;
        lists.pbcType           = static_cast<PbcType>(given.pbcType);
        lists.halo              = { static_cast<HaloShell>(given.haloShell), given.haloRange, given.haloPairs != 0 };
        provider->reinitPairlist(lists);
    }

    void launch(const DriverStep& given)
    {
        matrix box;
        std::memcpy(box, given.box, sizeof box);
        StepWorkload work;
        work.computeForces = given.computeForces != 0;
        work.computeEnergy = given.computeEnergy != 0;
        work.computeVirial = given.computeVirial != 0;
        xLocal.markEvent(*streams[0]);
        xNonLocal.markEvent(*streams[1]);
        GpuForceProviderInput input;
        input.x                      = static_cast<RVec*>(given.x);
        input.xLocalReadyOnDevice    = &xLocal;
        input.xNonLocalReadyOnDevice = &xNonLocal;
        input.box                    = &box;
        input.pbcType                = static_cast<PbcType>(given.pbcType);
        input.stepWork               = &work;
        GpuForceProviderOutput output;
        output.forces              = static_cast<RVec*>(given.forces);
        output.forcesReadyOnDevice = &forcesReady;
        provider->launchForces(input, output);
        // the force reductions, one for each locality
        forcesReady.setConsumptionLimits(numReductions, numReductions);
        for (int k = 0; k < numReductions; ++k)
        {
            forcesReady.enqueueWaitEvent(*streams[k]);
        }
    }

    DeviceContext                            context;
    DeviceStream                             own;
    std::array<std::unique_ptr<DeviceStream>, 2> streams;
    GpuEventSynchronizer                     xLocal, xNonLocal, forcesReady;
    GpuPairlist                              plists[3];
    int                                      numReductions = 1;
    std::string                              warnings;
    std::unique_ptr<IGpuForceProvider>       provider;
};

template<typename Work>
int guarded(Work work)
{
    try
    {
        work();
        return 0;
    }
    catch (const AlchemiError& error)
    {
        s_message = error.what();
        return error.code();
    }
    catch (const std::exception& error)
    {
        s_message = error.what();
        return -1;
    }
}

} // namespace

extern "C"
{

const char* driver_message() { return s_message.c_str(); }

const char* driver_warnings(Driver* driver) { return driver->warnings.c_str(); }

// What was queued since the last call.
const char* driver_trace()
{
    static std::string lines;
    lines = stand_in::trace();
    stand_in::trace().clear();
    return lines.c_str();
}

int driver_open(const DriverOptions* options, Driver** driver)
{
    return guarded([&] { *driver = new Driver(*options); });
}

void driver_close(Driver* driver)
{
    delete driver;
}

void driver_needs(Driver* driver, double* range, double* haloRange, int* haloShell, int* haloPairs)
{
    *range         = driver->provider->pairlistRange();
    const auto need = driver->provider->haloNeed();
    *haloRange     = need.range;
    *haloShell     = static_cast<int>(need.shell);
    *haloPairs     = need.haloPairs;
}

int driver_atoms(Driver* driver, int numHomeAtoms, int numAtoms, const int* globalIndices, int numIndices)
{
    return guarded([&] {
        driver->provider->reinitAtoms({ numHomeAtoms, numAtoms, { globalIndices, globalIndices + numIndices } });
    });
}

int driver_search(Driver* driver, const DriverSearch* given)
{
    return guarded([&] { driver->search(*given); });
}

int driver_launch(Driver* driver, const DriverStep* given)
{
    return guarded([&] { driver->launch(*given); });
}

int driver_finish(Driver* driver)
{
    return guarded([&] { driver->provider->finish(); });
}

int driver_collect(Driver* driver, double* scalars)
{
    return guarded([&] {
        const GpuForceProviderScalars found = driver->provider->collectScalars();
        scalars[0]                          = found.energy;
        for (int k = 0; k < 9; ++k)
        {
            scalars[1 + k] = found.virial[k / 3][k % 3];
        }
    });
}
}

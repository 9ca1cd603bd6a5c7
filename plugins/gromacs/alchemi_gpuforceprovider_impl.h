/* gmx::AlchemiGpuForceProvider: what its files share.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_ALCHEMI_GPUFORCEPROVIDER_IMPL_H
#define GMX_ALCHEMI_GPUFORCEPROVIDER_IMPL_H

#include "alchemi_gpuforceprovider.h"

#include <algorithm>

#include "gromacs/gpu_utils/device_context.h"
#include "gromacs/gpu_utils/device_stream.h"
#include "gromacs/gpu_utils/devicebuffer_datatype.h"
#include "gromacs/gpu_utils/gpueventsynchronizer.h"

#include "alchemi_gpuforceprovider_arrays.h"

namespace gmx
{

namespace alchemi
{

// GROMACS keeps radii in single precision.
constexpr double c_rounding = 1e-6;

inline std::string textOf(double number)
{
    return std::to_string(number);
}

[[noreturn]] inline void refuse(int                code,
                                const std::string& what,
                                const std::string& expected,
                                const std::string& got,
                                const std::string& fix)
{
    throw AlchemiError(
            code, "alchemi_bridge: " + what + ": expected " + expected + ", got " + got + "; " + fix);
}

} // namespace alchemi

class AlchemiGpuForceProvider::Impl
{
public:
    Impl(const AlchemiOptions& options,
         const DeviceContext&  deviceContext,
         const DeviceStream&   deviceStream);
    ~Impl();

    void check(int32_t code) const;
    void requireHalo(const GpuForceProviderPairlists& pairlists) const;
    void setPairs(const GpuForceProviderPairlists& pairlists);
    void waitForLists(const GpuForceProviderPairlists& pairlists);
    void releaseLists(const GpuForceProviderPairlists& pairlists);

    // Whether pairs of halo atoms influence the energies of home atoms.
    bool sendsMessages() const
    {
        return needs_.halo_range > needs_.pair_range * (1.0 + alchemi::c_rounding);
    }

    // What lies farther away than was asked for only costs time. The cutoff itself may be beyond a radius
    // that was rounded.
    double reachOf(const GpuForceProviderPairlists& pairlists) const
    {
        const double there = std::max<double>(pairlists.rlistOuter, needs_.pair_range);
        return std::min(there, needs_.pair_range + options_.pairlistBuffer);
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
    DeviceBuffer<double> scalars_    = nullptr;
    bool                 haveEnergy_ = false;
    bool                 haveVirial_ = false;

    // Marked in the stream of each list, and in ours when lists have been read; each consumed at once.
    EnumerationArray<InteractionLocality, GpuEventSynchronizer> listReady_;
    EnumerationArray<InteractionLocality, GpuEventSynchronizer> listRead_;
};

} // namespace gmx

#endif

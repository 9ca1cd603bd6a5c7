/* Stand-in for GROMACS, see README.md of this folder: gromacs/gpu_utils/gpueventsynchronizer.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_GPU_UTILS_GPUEVENTSYNCHRONIZER_H
#define GMX_GPU_UTILS_GPUEVENTSYNCHRONIZER_H

#include <stdexcept>

#include "gromacs/gpu_utils/device_stream.h"

class GpuEventSynchronizer
{
public:
    GpuEventSynchronizer(int minConsumptionCount, int maxConsumptionCount) :
        consumed_(maxConsumptionCount), min_(minConsumptionCount), max_(maxConsumptionCount)
    {
#if GMX_GPU_CUDA
        stand_in::cuda("cuEventCreate", &event_, 2U); // without timing
#endif
    }
    GpuEventSynchronizer() : GpuEventSynchronizer(1, 1) {}
    GpuEventSynchronizer(const GpuEventSynchronizer&)            = delete;
    GpuEventSynchronizer& operator=(const GpuEventSynchronizer&) = delete;

    void markEvent(const DeviceStream& deviceStream)
    {
        if (consumed_ < min_)
        {
            throw std::logic_error("event '" + stand_in::nameOf(this) + "' is marked before it was consumed");
        }
        consumed_ = 0;
        stand_in::say("mark " + stand_in::nameOf(this) + " in " + stand_in::nameOf(&deviceStream));
#if GMX_GPU_CUDA
        stand_in::cuda("cuEventRecord", event_, deviceStream.stream());
#endif
    }

    void enqueueWaitEvent(const DeviceStream& deviceStream)
    {
        if (consumed_ >= max_)
        {
            throw std::logic_error("event '" + stand_in::nameOf(this) + "' is consumed before it was marked");
        }
        ++consumed_;
        stand_in::say("wait for " + stand_in::nameOf(this) + " in " + stand_in::nameOf(&deviceStream));
#if GMX_GPU_CUDA
        stand_in::cuda("cuStreamWaitEvent", deviceStream.stream(), event_, 0U);
#endif
    }

    void setConsumptionLimits(int minConsumptionCount, int maxConsumptionCount)
    {
        min_ = minConsumptionCount;
        max_ = maxConsumptionCount;
    }

private:
#if GMX_GPU_CUDA
    void* event_ = nullptr;
#endif
    int consumed_;
    int min_;
    int max_;
};

#endif

/* Stand-in for GROMACS, see README.md of this folder: gromacs/gpu_utils/devicebuffer.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_GPU_UTILS_DEVICEBUFFER_H
#define GMX_GPU_UTILS_DEVICEBUFFER_H

#include <cstddef>
#include <cstring>

#include "gromacs/gpu_utils/device_context.h"
#include "gromacs/gpu_utils/device_stream.h"
#include "gromacs/gpu_utils/devicebuffer_datatype.h"
#include "gromacs/gpu_utils/gpu_utils.h"

using CommandEvent = void;

template<typename ValueType>
void allocateDeviceBuffer(DeviceBuffer<ValueType>* buffer, size_t numValues, const DeviceContext&)
{
#if GMX_GPU_CUDA
    stand_in::cuda("cuMemAlloc_v2", reinterpret_cast<void**>(buffer), numValues * sizeof(ValueType));
#else
    *buffer = new ValueType[numValues];
    // a device's memory is not cleared, either
    std::memset(*buffer, 0xff, numValues * sizeof(ValueType));
#endif
}

template<typename ValueType>
void freeDeviceBuffer(DeviceBuffer<ValueType>* buffer)
{
    if (*buffer != nullptr)
    {
#if GMX_GPU_CUDA
        stand_in::cuda("cuMemFree_v2", static_cast<void*>(*buffer));
#else
        delete[] *buffer;
#endif
        *buffer = nullptr;
    }
}

template<typename ValueType>
void clearDeviceBufferAsync(DeviceBuffer<ValueType>* buffer,
                            size_t                   startingOffset,
                            size_t                   numValues,
                            const DeviceStream&      deviceStream)
{
    stand_in::say("clear in " + stand_in::nameOf(&deviceStream));
#if GMX_GPU_CUDA
    stand_in::cuda("cuMemsetD8Async", static_cast<void*>(*buffer + startingOffset),
                   static_cast<unsigned char>(0), numValues * sizeof(ValueType), deviceStream.stream());
#else
    std::memset(*buffer + startingOffset, 0, numValues * sizeof(ValueType));
#endif
}

template<typename ValueType>
void copyFromDeviceBuffer(ValueType*               hostBuffer,
                          DeviceBuffer<ValueType>* buffer,
                          size_t                   startingOffset,
                          size_t                   numValues,
                          const DeviceStream&,
                          GpuApiCallBehavior,
                          CommandEvent*)
{
    stand_in::say("copy " + std::to_string(numValues) + " to the host");
#if GMX_GPU_CUDA
    stand_in::cuda("cuMemcpyDtoH_v2", static_cast<void*>(hostBuffer),
                   static_cast<void*>(*buffer + startingOffset), numValues * sizeof(ValueType));
#else
    std::memcpy(hostBuffer, *buffer + startingOffset, numValues * sizeof(ValueType));
#endif
}

#endif

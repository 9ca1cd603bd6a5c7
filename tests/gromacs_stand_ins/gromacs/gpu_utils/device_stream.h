/* Stand-in for GROMACS, see README.md of this folder: gromacs/gpu_utils/device_stream.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_GPU_UTILS_DEVICE_STREAM_H
#define GMX_GPU_UTILS_DEVICE_STREAM_H

#include "config.h"
#include "trace.h"

#if GMX_GPU_CUDA
#    include "cuda.h"
#endif

class DeviceStream
{
public:
    DeviceStream(const DeviceStream&)            = delete;
    DeviceStream& operator=(const DeviceStream&) = delete;

#if GMX_GPU_CUDA
    // Made by whoever made the buffers.
    explicit DeviceStream(void* handle) : stream_(static_cast<cudaStream_t>(handle)) {}
    cudaStream_t stream() const { return stream_; }
    void         synchronize() const
    {
        stand_in::say("synchronize " + stand_in::nameOf(this));
        stand_in::cuda("cuStreamSynchronize", stream_);
    }

private:
    cudaStream_t stream_;
#else
    explicit DeviceStream(void*) {}
    void synchronize() const { stand_in::say("synchronize " + stand_in::nameOf(this)); }
#endif
};

#endif

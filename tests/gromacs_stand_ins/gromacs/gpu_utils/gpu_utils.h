/* Stand-in for GROMACS, see README.md of this folder: gromacs/gpu_utils/gpu_utils.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_GPU_UTILS_GPU_UTILS_H
#define GMX_GPU_UTILS_GPU_UTILS_H

enum class GpuApiCallBehavior
{
    Sync,
    Async
};

#endif

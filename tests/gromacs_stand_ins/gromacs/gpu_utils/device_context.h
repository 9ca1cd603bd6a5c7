/* Stand-in for GROMACS, see README.md of this folder: gromacs/gpu_utils/device_context.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_GPU_UTILS_DEVICE_CONTEXT_H
#define GMX_GPU_UTILS_DEVICE_CONTEXT_H

class DeviceContext
{
};

#endif

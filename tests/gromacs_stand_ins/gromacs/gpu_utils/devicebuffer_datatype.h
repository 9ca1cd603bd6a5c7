/* Stand-in for GROMACS, see README.md of this folder: gromacs/gpu_utils/devicebuffer_datatype.h, as in CUDA builds.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_GPU_UTILS_DEVICEBUFFER_DATATYPE_H
#define GMX_GPU_UTILS_DEVICEBUFFER_DATATYPE_H

#include "gromacs/utility/vectypes.h"

template<typename ValueType>
using DeviceBuffer = ValueType*;

#endif

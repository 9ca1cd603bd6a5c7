/* Stand-in for GROMACS, see README.md of this folder: gromacs/nbnxm/gpu_types_common.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_NBNXM_GPU_TYPES_COMMON_H
#define GMX_NBNXM_GPU_TYPES_COMMON_H

#include "gromacs/gpu_utils/devicebuffer_datatype.h"
#include "gromacs/nbnxm/pairlist.h"

namespace gmx
{

struct Float4
{
    float x, y, z, w;
};

static constexpr int c_clusterSize      = 8;
static constexpr int c_clusterSplitSize = 2;
static constexpr int c_superClusterSize = 8;
static constexpr int c_jGroupSize       = 4;
static constexpr int c_exclSize         = 32;

struct NBAtomDataGpu
{
    int                  numAtoms;
    int                  numAtomsLocal;
    DeviceBuffer<Float4> xq;
};

class GpuPairlist
{
public:
    int                             numAtomsPerCluster = -1;
    int                             numSci             = -1;
    DeviceBuffer<nbnxn_sci_t>       sci                = nullptr;
    int                             numPackedJClusters = -1;
    DeviceBuffer<nbnxn_cj_packed_t> cjPacked           = nullptr;
    int                             numIMask           = -1;
    DeviceBuffer<unsigned int>      imask              = nullptr;
    DeviceBuffer<nbnxn_excl_t>      excl               = nullptr;
    int                             numExcl            = 1;
    bool                            haveFreshList      = false;
};

} // namespace gmx

#endif

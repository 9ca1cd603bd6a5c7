/* Memory of GROMACS as the C interface of alchemi_bridge describes it.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Part of AlchemiGpuForceProvider. The layouts are those of GROMACS 2026: GpuPairlist and
 * NBAtomDataGpu in nbnxm/gpu_types_common.h, nbnxn_sci_t, nbnxn_cj_packed_t and nbnxn_excl_t in
 * nbnxm/pairlist.h. (From GROMACS 2027 on the latter are called nbnxm_...; nothing here names them.)
 */
#ifndef GMX_ALCHEMI_GPUFORCEPROVIDER_ARRAYS_H
#define GMX_ALCHEMI_GPUFORCEPROVIDER_ARRAYS_H

#include "config.h"

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "gromacs/gpu_utils/device_stream.h"
#include "gromacs/gpu_utils/devicebuffer_datatype.h"
#include "gromacs/mdtypes/md_enums.h"
#include "gromacs/nbnxm/gpu_types_common.h"
#include "gromacs/utility/vectypes.h"

#include "alchemi_bridge_loader.h"

namespace gmx
{
namespace alchemi
{

static_assert(std::is_same_v<real, float>, "GROMACS computes on GPUs in mixed precision");

// The device is the host in the tests.
constexpr ab_memory c_memory = GMX_GPU_CUDA ? AB_CUDA : AB_HOST;

// The handle of a stream, for the C interface.
inline uintptr_t handleOf([[maybe_unused]] const DeviceStream& deviceStream)
{
#if GMX_GPU_CUDA
    const auto handle = reinterpret_cast<uintptr_t>(deviceStream.stream());
    return handle != 0 ? handle : 1; // that of the default stream
#else
    return 0;
#endif
}

template<typename T>
ab_dtype dtypeOf()
{
    static_assert(sizeof(T) == 4 || std::is_same_v<T, double>, "words, float or double");
    return std::is_same_v<T, double> ? AB_FLOAT64 : std::is_same_v<T, float> ? AB_FLOAT32 : AB_INT32;
}

// Arrays of device memory, of which a device buffer is the address.
class DeviceArrays
{
public:
    explicit DeviceArrays(int deviceId) : deviceId_(GMX_GPU_CUDA ? deviceId : 0) {}

    template<typename T>
    ab_array operator()(const T*                       data,
                        std::initializer_list<int64_t> extents,
                        std::initializer_list<int64_t> strides = {}) const
    {
        return alchemi_bridge::describe(data, dtypeOf<T>(), extents, strides, c_memory, deviceId_);
    }

    // Three numbers for each atom; GROMACS' vectors are three or four floats wide.
    template<typename Vector>
    ab_array vectors(const Vector* data, int count) const
    {
        constexpr int64_t width = sizeof(Vector) / sizeof(float);
        static_assert(width == 3 || width == 4, "a vector of floats");
        return (*this)(reinterpret_cast<const float*>(data), { count, 3 }, { width, 1 });
    }

    // Fill in the arrays of one list: words at a distance of a group's length from each other.
    void addTo(ab_pairs* pairs, const GpuPairlist& plist, bool useDynamicPruning) const
    {
        using Sci   = std::remove_pointer_t<decltype(plist.sci)>;
        using Group = std::remove_pointer_t<decltype(plist.cjPacked)>;
        using Excl  = std::remove_pointer_t<decltype(plist.excl)>;
        static_assert(sizeof(Sci) == 4 * sizeof(int) && offsetof(Sci, shift) == sizeof(int)
                              && offsetof(Sci, cjPackedBegin) == 2 * sizeof(int),
                      "entry of a list: super-cluster, shift, begin, end");
        static_assert(sizeof(Group) == (c_jGroupSize + 2 * c_clusterSplitSize) * sizeof(int)
                              && offsetof(Group, imei) == c_jGroupSize * sizeof(int),
                      "group of j clusters: clusters, then mask and exclusions of each half");
        static_assert(sizeof(Excl) == c_exclSize * sizeof(unsigned int), "words of an exclusion entry");
        // both are -1 before the first list
        const int64_t     entries = plist.numSci > 0 ? plist.numSci : 0;
        const int64_t     groups  = plist.numPackedJClusters > 0 ? plist.numPackedJClusters : 0;
        constexpr int64_t words   = sizeof(Group) / sizeof(int);
        const auto*       first   = reinterpret_cast<const int*>(plist.cjPacked);
        const int*        halves  = groups > 0 ? first + c_jGroupSize : nullptr;
        pairs->sci   = (*this)(reinterpret_cast<const int*>(plist.sci), { entries, 4 });
        pairs->cj    = (*this)(first, { groups, c_jGroupSize }, { words, 1 });
        pairs->imask = (*this)(halves, { groups, c_clusterSplitSize }, { words, 2 });
        // Masks of the groups are those of the search, or pruned at rlistInner; these at rlistOuter.
        // They are written by the kernel that makes a list one that is not fresh.
        if (useDynamicPruning && !plist.haveFreshList)
        {
            pairs->imask_outer = (*this)(plist.imask, { groups, c_clusterSplitSize });
        }
        pairs->fresh              = plist.haveFreshList ? 1 : 0;
        pairs->cluster_size       = c_clusterSize;
        pairs->clusters_per_super = c_superClusterSize;
        pairs->split              = c_clusterSplitSize;
    }

private:
    int deviceId_;
};

// The three flags of ab_step and ab_pairs; false for what has none.
inline bool periodicDirections(PbcType pbcType, int32_t* periodic)
{
    switch (pbcType)
    {
        case PbcType::Xyz: periodic[0] = periodic[1] = periodic[2] = 1; return true;
        case PbcType::XY:
            periodic[0] = periodic[1] = 1;
            periodic[2]               = 0;
            return true;
        case PbcType::No: periodic[0] = periodic[1] = periodic[2] = 0; return true;
        default: return false;
    }
}

inline void copyBox(const matrix& box, double* cell)
{
    for (int row = 0; row < DIM; ++row)
    {
        for (int column = 0; column < DIM; ++column)
        {
            cell[DIM * row + column] = box[row][column];
        }
    }
}

} // namespace alchemi
} // namespace gmx

#endif

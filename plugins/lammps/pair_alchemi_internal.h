/* Pair style alchemi: what its files share.
 *
 * SPDX-License-Identifier: GPL-2.0-only
 *
 * Part of the pair style, see pair_alchemi.cpp.
 */
#ifndef LMP_PAIR_ALCHEMI_INTERNAL_H
#define LMP_PAIR_ALCHEMI_INTERNAL_H

#include "alchemi_bridge.h"

#include <algorithm>
#include <initializer_list>
#include <map>
#include <vector>

namespace LAMMPS_NS {

class LAMMPS;

namespace alchemi {

// An atom whose energy does not count never takes the place of one whose energy does, however near.
constexpr double NEVER_THERE = 1.0e-6;

inline ab_array array_of(const void *data, ab_dtype dtype, std::initializer_list<int64_t> extents)
{
  ab_array array = {};
  array.data = const_cast<void *>(data);
  array.dtype = dtype;
  array.ndim = static_cast<int32_t>(extents.size());
  std::copy(extents.begin(), extents.end(), array.extent);
  int64_t stride = 1;
  for (int axis = array.ndim - 1; axis >= 0; --axis) {
    array.stride[axis] = stride;
    stride *= array.extent[axis];
  }
  return array;
}

inline ab_array array_of(const std::vector<int32_t> &values)
{
  static int32_t nothing = 0;    // an empty array has an address, too: it is given
  return array_of(values.empty() ? &nothing : values.data(), AB_INT32,
                  {static_cast<int64_t>(values.size())});
}

// The ghost cutoff that these styles have set, of each LAMMPS of this process, and how many there are.
struct GhostRange {
  double value = 0.0;
  int styles = 0;
};

inline std::map<const LAMMPS *, GhostRange> &ghost_ranges()
{
  static std::map<const LAMMPS *, GhostRange> ranges;
  return ranges;
}

}    // namespace alchemi
}    // namespace LAMMPS_NS

#endif

/* Pair style alchemi: what its files share.
 *
 * SPDX-License-Identifier: GPL-2.0-only
 *
 * Part of the pair style, see pair_alchemi.cpp.
 */
#ifndef LMP_PAIR_ALCHEMI_INTERNAL_H
#define LMP_PAIR_ALCHEMI_INTERNAL_H

#include "alchemi_bridge_loader.h"

#include <map>
#include <vector>

namespace LAMMPS_NS {

class LAMMPS;

namespace alchemi {

// An atom whose energy does not count never takes the place of one whose energy does, however near.
constexpr double NEVER_THERE = 1.0e-6;

using alchemi_bridge::describe;

inline ab_array describe(const std::vector<int32_t> &values)
{
  static int32_t nothing = 0;    // an empty array has an address, too: it is given
  return describe(values.empty() ? &nothing : values.data(), AB_INT32,
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

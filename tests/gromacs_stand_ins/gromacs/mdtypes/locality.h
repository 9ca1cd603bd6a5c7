/* Stand-in for GROMACS, see README.md of this folder: gromacs/mdtypes/locality.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_MDTYPES_LOCALITY_H
#define GMX_MDTYPES_LOCALITY_H

namespace gmx
{

enum class InteractionLocality : int
{
    Local    = 0,
    NonLocal = 1,
    Count    = 2
};

} // namespace gmx

#endif

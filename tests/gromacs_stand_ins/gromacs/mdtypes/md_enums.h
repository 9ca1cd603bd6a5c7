/* Stand-in for GROMACS, see README.md of this folder: gromacs/mdtypes/md_enums.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_MDTYPES_MD_ENUMS_H
#define GMX_MDTYPES_MD_ENUMS_H

enum class PbcType : int
{
    Xyz     = 0,
    No      = 1,
    XY      = 2,
    Screw   = 3,
    Unset   = 4,
    Count   = 5,
    Default = Xyz
};

#endif

/* Stand-in for GROMACS, see README.md of this folder: gromacs/nbnxm/pairlist.h and nbnxm_enums.h, for PairlistType::Hierarchical8x8x8.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_NBNXM_PAIRLIST_H
#define GMX_NBNXM_PAIRLIST_H

namespace gmx
{

struct nbnxn_sci_t
{
    int sci;
    int shift;
    int cjPackedBegin;
    int cjPackedEnd;
};

struct nbnxn_im_ei_t
{
    unsigned int imask    = 0U;
    int          excl_ind = 0;
};

struct nbnxn_cj_packed_t
{
    int           cj[4];
    nbnxn_im_ei_t imei[2];
};

struct nbnxn_excl_t
{
    unsigned int pair[32];
};

} // namespace gmx

#endif

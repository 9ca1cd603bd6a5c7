/* Stand-in for GROMACS, see README.md of this folder: gromacs/utility/vectypes.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_UTILITY_VECTYPES_H
#define GMX_UTILITY_VECTYPES_H

using real = float;

constexpr int DIM = 3;

typedef real matrix[DIM][DIM];

namespace gmx
{

template<typename ValueType>
class BasicVector
{
public:
    ValueType& operator[](int i) { return x_[i]; }
    ValueType  operator[](int i) const { return x_[i]; }

private:
    ValueType x_[DIM];
};

typedef BasicVector<real> RVec;

} // namespace gmx

#endif

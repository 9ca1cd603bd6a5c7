/* Stand-in for GROMACS, see README.md of this folder: gromacs/utility/enumerationhelpers.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_UTILITY_ENUMERATIONHELPERS_H
#define GMX_UTILITY_ENUMERATIONHELPERS_H

#include <cstddef>

namespace gmx
{

template<typename EnumType, typename DataType, EnumType ArraySize = EnumType::Count>
struct EnumerationArray final
{
    DataType m_elements[std::size_t(ArraySize)];

    DataType&       operator[](EnumType index) { return m_elements[std::size_t(index)]; }
    const DataType& operator[](EnumType index) const { return m_elements[std::size_t(index)]; }
};

} // namespace gmx

#endif

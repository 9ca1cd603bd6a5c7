/* Stand-in for GROMACS, see README.md of this folder: gromacs/utility/arrayref.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_UTILITY_ARRAYREF_H
#define GMX_UTILITY_ARRAYREF_H

#include <cstddef>

namespace gmx
{

template<typename T>
class ArrayRef
{
public:
    ArrayRef() : begin_(nullptr), end_(nullptr) {}
    ArrayRef(T* begin, T* end) : begin_(begin), end_(end) {}

    std::size_t size() const { return end_ - begin_; }
    bool        empty() const { return begin_ == end_; }
    T*          begin() const { return begin_; }
    T*          end() const { return end_; }
    T&          operator[](std::size_t n) const { return begin_[n]; }

private:
    T* begin_;
    T* end_;
};

} // namespace gmx

#endif

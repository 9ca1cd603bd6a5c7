/* What comes with a command of the PLUMED interface.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef ALCHEMI_PLUMED_VALUES_H
#define ALCHEMI_PLUMED_VALUES_H

#include <cstddef>
#include <stdexcept>
#include <string>

namespace alchemi_plumed {

/* What the engine is to be told; becomes its exception at the border. */
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/* The address that came with a command, and what the engine said about it. */
struct Value {
    const void *data = nullptr;
    /* Size of an element in the low 16 bits, its kind in the next 8; zero for engines that do not say. */
    size_t flags = 0;

    static constexpr size_t SIZE = 0xffff, KIND = 0xff0000, INTEGER = 0x30000, FLOATING = 0x40000;

    size_t size_if(size_t kind, size_t otherwise) const
    {
        const size_t size = flags & SIZE;
        return (flags & KIND) == kind && size ? size : otherwise;
    }
};

/* Numbers of the engine in its precision, one after another or with gaps. */
struct Reals {
    void *data = nullptr;
    size_t width = 0;  /* bytes of a number: 4 or 8 */
    size_t stride = 1; /* numbers from one to the next */

    explicit operator bool() const { return data != nullptr; }

    double get(size_t k) const
    {
        return width == sizeof(float) ? static_cast<double>(static_cast<const float *>(data)[k * stride])
                                      : static_cast<const double *>(data)[k * stride];
    }

    void add(size_t k, double value) const
    {
        /* rounded once, after the sum */
        if (width == sizeof(float)) {
            float &there = static_cast<float *>(data)[k * stride];
            there = static_cast<float>(static_cast<double>(there) + value);
        } else {
            static_cast<double *>(data)[k * stride] += value;
        }
    }

    void set(size_t k, double value) const
    {
        if (width == sizeof(float))
            static_cast<float *>(data)[k * stride] = static_cast<float>(value);
        else
            static_cast<double *>(data)[k * stride] = value;
    }

    /* One component of vectors that lie one after another. */
    Reals component(size_t axis) const
    {
        if (!data) return {};
        return {static_cast<char *>(data) + axis * width, width, 3};
    }
};

} // namespace alchemi_plumed

#endif

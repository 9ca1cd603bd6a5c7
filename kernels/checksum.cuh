// A number that changes when any coordinate does, or the order of coordinates: two of them, taken
// before and after an evaluation, show that nobody wrote in between.

#pragma once
#include "common.cuh"

// Rows of one index. Fixed: the partial sums depend on it, their total does not.
#define AB_CHECKSUM_CHUNK 16

// SplitMix64 (Steele, Lea, Flood 2014, https://doi.org/10.1145/2660193.2660195), started at `place`:
// equal bits at two places count for different numbers.
AB_BODY u64 mixed(u64 bits, u64 place)
{
    u64 z = bits + (place + 1) * 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

// x holds the bits of coordinates, as words of their size. Sums wrap at 2^64, in any order alike.
template <typename T>
AB_BODY void checksum_chunk(long long k, const T* x, long long row_stride, long long element_stride,
                            const long long* subset, long long n_rows, u64* partial)
{
    const long long begin = k * AB_CHECKSUM_CHUNK;
    const long long end = begin + AB_CHECKSUM_CHUNK < n_rows ? begin + AB_CHECKSUM_CHUNK : n_rows;
    u64 sum = 0;
    for (long long i = begin; i < end; ++i) {
        const T* row = x + (subset ? subset[i] : i) * row_stride;
        for (int m = 0; m < 3; ++m)
            sum += mixed((u64)row[m * element_stride], (u64)(3 * i + m));
    }
    partial[k] = sum;
}

// Names end in the size of a coordinate.

AB_KERNEL(checksum_4,
          (const u32* x, long long row_stride, long long element_stride, const long long* subset,
           long long n_rows, u64* partial),
          checksum_chunk<u32>(k, x, row_stride, element_stride, subset, n_rows, partial))

AB_KERNEL(checksum_8,
          (const u64* x, long long row_stride, long long element_stride, const long long* subset,
           long long n_rows, u64* partial),
          checksum_chunk<u64>(k, x, row_stride, element_stride, subset, n_rows, partial))

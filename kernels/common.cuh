// One source for three compilers: nvcc and NVRTC make CUDA kernels of it, g++ a shared library of
// plain functions (the host shim). A body works on one index and knows nothing of threads or blocks;
// AB_KERNEL gives it an entry point that runs it for every index below `count`.
//
// Rules for the bodies: no block-level cooperation, no floating-point contraction (compiled with
// --fmad=false and -ffp-contract=off, so that all three give the same bits), sizes and scalars as
// `long long` and `double`, arrays as pointers. Entry points are read by alchemi_bridge/native, which
// checks every argument against them: keep one `AB_KERNEL(name, (type name, ...), body(k, ...))` form,
// types without `struct` or references.

#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define AB_CUDA 1
#else
#define AB_CUDA 0
#include <math.h>
#include <string.h>
#endif

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#if AB_CUDA
#define AB_BODY static __device__ __forceinline__
#else
#define AB_BODY static inline __attribute__((always_inline))
#endif

#define AB_STRIP(...) __VA_ARGS__

#if AB_CUDA
#define AB_KERNEL(name, params, ...)                                                            \
    extern "C" __global__ void name(long long count, AB_STRIP params)                           \
    {                                                                                           \
        const long long stride = (long long)gridDim.x * blockDim.x;                             \
        for (long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x; k < count;         \
             k += stride) {                                                                     \
            __VA_ARGS__;                                                                        \
        }                                                                                       \
    }
#else
#define AB_KERNEL(name, params, ...)                                                            \
    extern "C" void name(long long count, long long threads, AB_STRIP params)                   \
    {                                                                                           \
        _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")      \
        for (long long k = 0; k < count; ++k) {                                                 \
            __VA_ARGS__;                                                                        \
        }                                                                                       \
    }
#endif

// Adds one and returns what was there. The host shim runs kernels that use it on one thread.
AB_BODY int fetch_increment(int* counter)
{
#if AB_CUDA
    return atomicAdd(counter, 1);
#else
    return (*counter)++;
#endif
}

// A row of three, kept with any distance between its elements.
template <typename T>
AB_BODY void load3(const T* from, long long row, long long row_stride, long long element_stride,
                   double out[3])
{
    const T* p = from + row * row_stride;
    out[0] = (double)p[0];
    out[1] = (double)p[element_stride];
    out[2] = (double)p[2 * element_stride];
}

// The way back: from gradients with respect to pair vectors to forces and virial, and from there into
// the engine's memory.

#pragma once
#include "common.cuh"
#include "cut.cuh"

// F_i += sum over the entries k of row i of g(k) - g(reverse(k)), where g is dE/dr of what the model
// was given and zero for entries that it was not given. Every atom reads what concerns it, in the
// order of its row: no atomics, and the same bits every time. With `virial`, row i also adds
// r (x) (g(k) - g(reverse(k))) of its canonical entries to 9 numbers of its own; lists in one
// direction hold these. An atom's own images push and pull it alike.
template <typename T>
AB_BODY void pair_gradient(int k, const int* reverse, const int* place, const T* gradients,
                           double d[3])
{
    const long long here = place[k], there = place[reverse[k]];
    for (int m = 0; m < 3; ++m)
        d[m] = (here >= 0 ? (double)gradients[3 * here + m] : 0.0)
               - (there >= 0 ? (double)gradients[3 * there + m] : 0.0);
}

template <typename T>
AB_BODY void add_outer(const T* r, const double d[3], double w[9])
{
    for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b) w[3 * a + b] += (double)r[a] * d[b];
}

// What a pair adds to the virial, d being its gradient. The vector is that of either direction: where
// rows were left out, because their messages do not reach, the model may have got the reverse alone.
template <typename T>
AB_BODY void add_virial(int k, const int* reverse, const int* place, const T* vectors,
                        const double d[3], double w[9])
{
    const long long here = place[k], there = place[reverse[k]];
    if (here >= 0) {
        add_outer(vectors + 3 * here, d, w);
    } else if (there >= 0) {
        const double back[3] = {-d[0], -d[1], -d[2]};
        add_outer(vectors + 3 * there, back, w);
    }
}

template <typename T>
AB_BODY void gather_row(long long i, const int* starts, const int* second, const int* code,
                        const int* reverse, const int* place, long long n_codes,
                        const T* gradients, const T* vectors, T* forces, double* virial)
{
    double f[3] = {(double)forces[3 * i], (double)forces[3 * i + 1], (double)forces[3 * i + 2]};
    double w[9] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    const int end = starts[i + 1];
    // Images of an atom j < i in descending order: that of their reverses in row j, in which
    // scatter_row meets them.
    for (int k = starts[i]; k < end && second[k] < i;) {
        int next = k + 1;
        while (next < end && second[next] == second[k]) ++next;
        for (int q = next - 1; q >= k; --q) {
            double d[3];
            pair_gradient(q, reverse, place, gradients, d);
            for (int m = 0; m < 3; ++m) f[m] += d[m];
        }
        k = next;
    }
    for (int k = starts[i]; k < end; ++k) {
        const int j = second[k];
        if (!is_canonical(i, j, code[k], n_codes)) continue;
        double d[3];
        pair_gradient(k, reverse, place, gradients, d);
        if (j != i)
            for (int m = 0; m < 3; ++m) f[m] += d[m];
        if (virial) add_virial(k, reverse, place, vectors, d, w);
    }
    for (int m = 0; m < 3; ++m) forces[3 * i + m] = (T)f[m];
    if (virial)
        for (int m = 0; m < 9; ++m) virial[9 * i + m] += w[m];
}

// Reverses are all over the memory: asks for what entries ahead will need, for the cache of a host.
// Places beyond the last row are read as place 0: the arrays may end there.
#define AB_AHEAD 24

template <typename T>
AB_BODY void fetch_ahead(int k, long long n_rows, const int* reverse, const int* place,
                         const T* gradients)
{
#if !AB_CUDA
    const long long far = k + 2 * AB_AHEAD, near = k + AB_AHEAD;
    if (far < n_rows) __builtin_prefetch(place + reverse[far]);
    if (near < n_rows) {
        const long long there = place[reverse[near]];
        if (there >= 0) __builtin_prefetch(gradients + 3 * there);
    }
#else
    (void)k; (void)n_rows; (void)reverse; (void)place; (void)gradients;
#endif
}

// The same for one thread of a host: every pair is visited once, and pushes both of its atoms. Row by
// row, an atom meets its partners in the order of its own row, so that the bits are the same.
template <typename T>
AB_BODY void scatter_row(long long i, const int* starts, const int* second, const int* code,
                         const int* reverse, const int* place, long long n_codes,
                         long long n_rows, const T* gradients, const T* vectors, double* forces,
                         double* virial)
{
    double f[3] = {forces[3 * i], forces[3 * i + 1], forces[3 * i + 2]};
    double w[9] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    for (int k = starts[i]; k < starts[i + 1]; ++k) {
        fetch_ahead(k, n_rows, reverse, place, gradients);
        const int j = second[k];
        if (!is_canonical(i, j, code[k], n_codes)) continue;
        double d[3];
        pair_gradient(k, reverse, place, gradients, d);
        if (j != i)
            for (int m = 0; m < 3; ++m) {
                f[m] += d[m];
                forces[3 * (long long)j + m] -= d[m];
            }
        if (virial) add_virial(k, reverse, place, vectors, d, w);
    }
    for (int m = 0; m < 3; ++m) forces[3 * i + m] = f[m];
    if (virial)
        for (int m = 0; m < 9; ++m) virial[9 * i + m] += w[m];
}

// Adds (n, 3) rows, times a unit factor, to the engine's rows, which may have any stride, any order,
// and another precision.
template <typename T, typename U>
AB_BODY void add_row(long long k, const T* rows, const long long* subset, double factor, U* out,
                     long long row_stride, long long element_stride)
{
    U* target = out + (subset ? subset[k] : k) * row_stride;
    for (int m = 0; m < 3; ++m)
        target[m * element_stride] += (U)((double)rows[3 * k + m] * factor);
}

AB_KERNEL(gather_rows_f,
          (const int* starts, const int* second, const int* code, const int* reverse,
           const int* place, long long n_codes, const float* gradients, const float* vectors,
           float* forces, double* virial),
          gather_row<float>(k, starts, second, code, reverse, place, n_codes, gradients, vectors,
                        forces, virial))

AB_KERNEL(scatter_rows_f,
          (const int* starts, const int* second, const int* code, const int* reverse,
           const int* place, long long n_codes, long long n_rows, const float* gradients,
           const float* vectors, double* forces, double* virial),
          scatter_row<float>(k, starts, second, code, reverse, place, n_codes, n_rows, gradients,
                        vectors, forces, virial))

AB_KERNEL(gather_rows_d,
          (const int* starts, const int* second, const int* code, const int* reverse,
           const int* place, long long n_codes, const double* gradients, const double* vectors,
           double* forces, double* virial),
          gather_row<double>(k, starts, second, code, reverse, place, n_codes, gradients, vectors,
                        forces, virial))

AB_KERNEL(scatter_rows_d,
          (const int* starts, const int* second, const int* code, const int* reverse,
           const int* place, long long n_codes, long long n_rows, const double* gradients,
           const double* vectors, double* forces, double* virial),
          scatter_row<double>(k, starts, second, code, reverse, place, n_codes, n_rows, gradients,
                        vectors, forces, virial))

// Names end in the types of the rows and of the engine's memory.

AB_KERNEL(add_rows_ff,
          (const float* rows, const long long* subset, double factor, float* out, long long row_stride,
           long long element_stride),
          add_row<float, float>(k, rows, subset, factor, out, row_stride, element_stride))

AB_KERNEL(add_rows_fd,
          (const float* rows, const long long* subset, double factor, double* out, long long row_stride,
           long long element_stride),
          add_row<float, double>(k, rows, subset, factor, out, row_stride, element_stride))

AB_KERNEL(add_rows_df,
          (const double* rows, const long long* subset, double factor, float* out, long long row_stride,
           long long element_stride),
          add_row<double, float>(k, rows, subset, factor, out, row_stride, element_stride))

AB_KERNEL(add_rows_dd,
          (const double* rows, const long long* subset, double factor, double* out, long long row_stride,
           long long element_stride),
          add_row<double, double>(k, rows, subset, factor, out, row_stride, element_stride))

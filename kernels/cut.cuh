// Every step: which candidate pairs are within a cutoff, and their vectors.

#pragma once
#include "common.cuh"

// The vector of entry k of row i. W is the working precision; the difference comes first, so that
// rounding of coordinates far from the origin enters only once. `t` gets it in the model's precision.
template <typename W, typename T>
AB_BODY void pair_vector(const W* x, const W* xi, long long j, const W* offset, T t[3])
{
    for (int m = 0; m < 3; ++m) t[m] = (T)((x[3 * j + m] - xi[m]) + offset[m]);
}

// Squared in double from the rounded vector: what the model will see.
template <typename T> AB_BODY double squared(const T t[3])
{
    const double x = (double)t[0], y = (double)t[1], z = (double)t[2];
    return x * x + y * y + z * z;
}

// One of the two entries of every pair.
AB_BODY int is_canonical(long long i, int j, int code, long long n_codes)
{
    return i < j || (i == j && 2 * (long long)code > n_codes - 1);
}

// Marks the entries of row i that go into a list, and counts them. `shortest` is minus the square of
// the shortest vector of the row, so that the largest of all is what is wanted. With `margin` only the
// rows of atoms count whose margin is not below the list's cutoff, see pairs/rows.py.
template <typename W, typename T>
AB_BODY void mark_row(long long i, const int* starts, const int* second, const int* code,
                      const W* x, const W* offsets, long long n_codes, long long half,
                      double limit, const double* margin, double cutoff, u8* keep, int* counts,
                      double* shortest)
{
    const int mine = !margin || margin[i] >= cutoff;
    const W xi[3] = {x[3 * i], x[3 * i + 1], x[3 * i + 2]};
    int count = 0;
    double least = 1.0e300;
    for (int k = starts[i]; k < starts[i + 1]; ++k) {
        const int j = second[k], c = code[k];
        T t[3];
        pair_vector<W, T>(x, xi, j, offsets + 3 * (long long)c, t);
        const double d = squared(t);
        if (d < least) least = d;
        const int counted = mine || (half && margin[j] >= cutoff);
        const int kept = d < limit && counted && (!half || is_canonical(i, j, c, n_codes));
        keep[k] = (u8)kept;
        count += kept;
    }
    counts[i] = count;
    shortest[i] = -least;
}

// Writes the marked entries of row i, from place base[i] on; place[k] is where entry k went, or -1.
// Atoms of a sample are numbered from the first of their system, begin[i], or through if it is null.
template <typename W, typename T>
AB_BODY void fill_row(long long i, const int* starts, const int* second, const int* code, const W* x,
                      const W* offsets, const u8* keep, const int* base, const int* table,
                      const int* begin, int* samples, T* vectors, int* place)
{
    const int from = begin ? begin[i] : 0;
    const W xi[3] = {x[3 * i], x[3 * i + 1], x[3 * i + 2]};
    long long q = base[i];
    for (int k = starts[i]; k < starts[i + 1]; ++k) {
        if (!keep[k]) {
            place[k] = -1;
            continue;
        }
        const int j = second[k], c = code[k];
        pair_vector<W, T>(x, xi, j, offsets + 3 * (long long)c, vectors + 3 * q);
        int* sample = samples + 5 * q;
        sample[0] = (int)i - from;
        sample[1] = j - from;
        for (int m = 0; m < 3; ++m) sample[2 + m] = table[3 * (long long)c + m];
        place[k] = (int)q;
        ++q;
    }
}

// New vectors for a list that stays the same: entry k goes to place[k].
template <typename W, typename T>
AB_BODY void refresh_row(long long i, const int* starts, const int* second, const int* code,
                         const W* x, const W* offsets, const int* place, T* vectors,
                         double* shortest)
{
    const W xi[3] = {x[3 * i], x[3 * i + 1], x[3 * i + 2]};
    double least = 1.0e300;
    for (int k = starts[i]; k < starts[i + 1]; ++k) {
        T t[3];
        pair_vector<W, T>(x, xi, second[k], offsets + 3 * (long long)code[k], t);
        const double d = squared(t);
        if (d < least) least = d;
        if (place[k] >= 0)
            for (int m = 0; m < 3; ++m) vectors[3 * (long long)place[k] + m] = t[m];
    }
    shortest[i] = -least;
}

// Names end in the types of the working coordinates and of the model's vectors.

AB_KERNEL(mark_rows_ff,
          (const int* starts, const int* second, const int* code, const float* x, const float* offsets,
           long long n_codes, long long half, double limit, const double* margin, double cutoff,
           u8* keep, int* counts, double* shortest),
          mark_row<float, float>(k, starts, second, code, x, offsets, n_codes, half, limit, margin, cutoff,
                           keep, counts, shortest))
AB_KERNEL(fill_rows_ff,
          (const int* starts, const int* second, const int* code, const float* x, const float* offsets,
           const u8* keep, const int* base, const int* table, const int* begin, int* samples,
           float* vectors, int* place),
          fill_row<float, float>(k, starts, second, code, x, offsets, keep, base, table, begin,
                           samples, vectors, place))
AB_KERNEL(refresh_rows_ff,
          (const int* starts, const int* second, const int* code, const float* x, const float* offsets,
           const int* place, float* vectors, double* shortest),
          refresh_row<float, float>(k, starts, second, code, x, offsets, place, vectors, shortest))

AB_KERNEL(mark_rows_df,
          (const int* starts, const int* second, const int* code, const double* x, const double* offsets,
           long long n_codes, long long half, double limit, const double* margin, double cutoff,
           u8* keep, int* counts, double* shortest),
          mark_row<double, float>(k, starts, second, code, x, offsets, n_codes, half, limit, margin, cutoff,
                           keep, counts, shortest))
AB_KERNEL(fill_rows_df,
          (const int* starts, const int* second, const int* code, const double* x, const double* offsets,
           const u8* keep, const int* base, const int* table, const int* begin, int* samples,
           float* vectors, int* place),
          fill_row<double, float>(k, starts, second, code, x, offsets, keep, base, table, begin,
                           samples, vectors, place))
AB_KERNEL(refresh_rows_df,
          (const int* starts, const int* second, const int* code, const double* x, const double* offsets,
           const int* place, float* vectors, double* shortest),
          refresh_row<double, float>(k, starts, second, code, x, offsets, place, vectors, shortest))

AB_KERNEL(mark_rows_dd,
          (const int* starts, const int* second, const int* code, const double* x, const double* offsets,
           long long n_codes, long long half, double limit, const double* margin, double cutoff,
           u8* keep, int* counts, double* shortest),
          mark_row<double, double>(k, starts, second, code, x, offsets, n_codes, half, limit, margin, cutoff,
                           keep, counts, shortest))
AB_KERNEL(fill_rows_dd,
          (const int* starts, const int* second, const int* code, const double* x, const double* offsets,
           const u8* keep, const int* base, const int* table, const int* begin, int* samples,
           double* vectors, int* place),
          fill_row<double, double>(k, starts, second, code, x, offsets, keep, base, table, begin,
                           samples, vectors, place))
AB_KERNEL(refresh_rows_dd,
          (const int* starts, const int* second, const int* code, const double* x, const double* offsets,
           const int* place, double* vectors, double* shortest),
          refresh_row<double, double>(k, starts, second, code, x, offsets, place, vectors, shortest))

// Cluster pair lists of GROMACS' nbnxm, decoded into pairs of atoms.
//
// A super-cluster is 2^super_bits clusters of 2^cluster_bits slots. Entry s of `sci` is
// {super-cluster of the i side, shift number, begin, end}; [begin, end) are groups, each with
// 32 / 2^super_bits j clusters `cj`, and for each part of 2^half_bits j slots one mask: bit
// (jm << super_bits) + ci stands for i cluster ci against j cluster cj[jm]. Lane k of a list is
// (group, jj, ii), jj and ii being the places within both clusters; a word of an exclusion entry, and
// a word of `keep`, belong to a lane and have the bits of the mask.
//
// Source: src/gromacs/nbnxm/pairlist.h, pbcutil/ishift.h and nbnxm/cuda/nbnxm_cuda_kernel.cuh of
// GROMACS 2026.

#pragma once
#include "common.cuh"

#define AB_CENTRAL_SHIFT 22

#if AB_CUDA
#define AB_NAN __longlong_as_double(0x7ff8000000000000ll)
#else
#define AB_NAN NAN
#endif

AB_BODY int lowest_bit(u32 word)
{
#if AB_CUDA
    return __ffs((int)word) - 1;
#else
    return __builtin_ctz(word);
#endif
}

// What is wrong with a list, as bits of one word.
AB_BODY void flag(u32* flags, u32 bit)
{
#if AB_CUDA
    atomicOr(flags, bit);
#else
    *flags |= bit;
#endif
}

// Entry k of sci; `claims` counts the entries of each group, `owner` is the last of them.
AB_BODY void check_entry(long long k, const int* sci, long long n_supers, long long n_shifts,
                         long long open_directions, long long n_groups, int* claims, int* owner,
                         u32* flags)
{
    const int* row = sci + 4 * k;
    const int t = row[1], begin = row[2], end = row[3];
    if (row[0] < 0 || row[0] >= n_supers) flag(flags, 1u);
    if (t < 0 || t >= n_shifts) flag(flags, 2u);
    else if ((t % 5 != 2 && (open_directions & 1)) || ((t / 5) % 3 != 1 && (open_directions & 2)) ||
             (t / 15 != 1 && (open_directions & 4)))
        flag(flags, 4u);
    if (begin < 0 || end > n_groups || begin > end) {
        flag(flags, 8u);
        return;
    }
    for (int group = begin; group < end; ++group) {
        if (fetch_increment(claims + group) != 0) {
            flag(flags, 16u);
            return;  // also keeps a list that claims everything many times from taking forever
        }
        owner[group] = (int)k;
    }
}

AB_KERNEL(check_entries,
          (const int* sci, long long n_supers, long long n_shifts, long long open_directions,
           long long n_groups, int* claims, int* owner, u32* flags),
          check_entry(k, sci, n_supers, n_shifts, open_directions, n_groups, claims, owner, flags))

AB_BODY void check_group(long long k, const int* cj, const u32* imask, const int* excl_ind,
                         const int* claims, long long n_clusters, long long n_excl,
                         long long super_bits, long long split, u32* flags)
{
    u32 mask = 0u;
    for (int h = 0; h < split; ++h) {
        mask |= imask[k * split + h];
        if (excl_ind == 0) continue;
        const int entry = excl_ind[k * split + h];
        if (entry < 0 || entry >= n_excl) flag(flags, 128u);
    }
    if (mask != 0u && claims[k] == 0) flag(flags, 32u);
    const int per_group = 32 >> super_bits;
    for (int jm = 0; jm < per_group; ++jm) {
        // where the mask is empty the engine leaves cj undefined
        if (((mask >> (jm << super_bits)) & ((1u << (1 << super_bits)) - 1u)) == 0u) continue;
        const int cluster = cj[k * per_group + jm];
        if (cluster < 0 || cluster >= n_clusters) flag(flags, 64u);
    }
}

AB_KERNEL(check_groups,
          (const int* cj, const u32* imask, const int* excl_ind, const int* claims,
           long long n_clusters, long long n_excl, long long super_bits, long long split, u32* flags),
          check_group(k, cj, imask, excl_ind, claims, n_clusters, n_excl, super_bits, split, flags))

// Slot k; `slots` counts those of each atom.
template <typename T>
AB_BODY void check_slot(long long k, const int* atom_index, const T* x, long long row_stride,
                        long long element_stride, long long n_atoms, int* slots, u32* flags)
{
    const int atom = atom_index[k];
    if (atom < -1 || atom >= n_atoms) flag(flags, 256u);
    else if (atom >= 0) {
        if (fetch_increment(slots + atom) != 0) flag(flags, 512u);
        double r[3];
        load3(x, k, row_stride, element_stride, r);
        for (int m = 0; m < 3; ++m) {
            if (!(r[m] - r[m] == 0.0)) flag(flags, 1024u);
        }
    }
}

AB_KERNEL(check_slots_f,
          (const int* atom_index, const float* x, long long row_stride, long long element_stride,
           long long n_atoms, int* slots, u32* flags),
          check_slot<float>(k, atom_index, x, row_stride, element_stride, n_atoms, slots, flags))

AB_KERNEL(check_slots_d,
          (const int* atom_index, const double* x, long long row_stride, long long element_stride,
           long long n_atoms, int* slots, u32* flags),
          check_slot<double>(k, atom_index, x, row_stride, element_stride, n_atoms, slots, flags))

// Coordinates of a slot as `keep_row` reads them: in double, the slots of a cluster side by side. Slots
// without an atom (`place` -1) get NaN, which is closer to nothing.
template <typename T>
AB_BODY void pack_slot(long long slot, const int* place, const T* x, long long row_stride,
                       long long element_stride, long long cluster_bits, double* packed)
{
    const long long size = 1ll << cluster_bits;
    double* to = packed + 3 * (slot & ~(size - 1)) + (slot & (size - 1));
    double from[3] = {AB_NAN, AB_NAN, AB_NAN};
    if (place[slot] >= 0) load3(x, slot, row_stride, element_stride, from);
    for (int m = 0; m < 3; ++m) to[m * size] = from[m];
}

AB_KERNEL(pack_slots_f,
          (const int* place, const float* x, long long row_stride, long long element_stride,
           long long cluster_bits, double* packed),
          pack_slot<float>(k, place, x, row_stride, element_stride, cluster_bits, packed))

AB_KERNEL(pack_slots_d,
          (const int* place, const double* x, long long row_stride, long long element_stride,
           long long cluster_bits, double* packed),
          pack_slot<double>(k, place, x, row_stride, element_stride, cluster_bits, packed))

// Which pairs of j slot jj of a group belong to the list: those that the mask names, that are two
// atoms, that occur once, and that are closer than the square root of `limit`. `excl` is null where
// exclusions are not honoured. Row k is (group, jj), with one word for each ii.
template <int CLUSTER_BITS>
AB_BODY void keep_row(long long k, const int* sci, const int* owner, const int* cj, const u32* imask,
                      const int* excl_ind, const u32* excl, const double* packed,
                      const double* shift_vectors, long long super_bits, long long half_bits,
                      long long intra_grid, double limit, u32* keep)
{
    const int size = 1 << CLUSTER_BITS, half_size = 1 << half_bits;
    const int clusters = 1 << super_bits, per_group = 32 >> super_bits;
    const long long group = k >> CLUSTER_BITS;
    const int jj = (int)k & (size - 1), entry = owner[group];
    const long long part = (group << (CLUSTER_BITS - half_bits)) + (jj >> half_bits);
    const u32 wanted = entry < 0 ? 0u : imask[part];
    u32* words = keep + (k << CLUSTER_BITS);
    u32 kept[1 << CLUSTER_BITS];
    for (int ii = 0; ii < size; ++ii) kept[ii] = 0u;
    for (int jm = 0; wanted != 0u && jm < per_group; ++jm) {
        const u32 byte = (wanted >> (jm << super_bits)) & ((1u << clusters) - 1u);
        if (byte == 0u) continue;
        const int* row = sci + 4 * (long long)entry;
        const double* s = shift_vectors + 3 * row[1];
        const long long i_first = (long long)row[0] << super_bits, j_cluster = cj[group * per_group + jm];
        const double* xj = packed + 3 * (j_cluster << CLUSTER_BITS) + jj;
        const double a = xj[0], b = xj[size], c = xj[2 * size], sa = s[0], sb = s[1], sc = s[2];
        // in the central cell pairs of a cluster with itself are named in both directions
        const long long last = intra_grid && row[1] == AB_CENTRAL_SHIFT ? j_cluster - i_first : clusters;
        for (int ci = 0; ci < clusters && ci <= last; ++ci) {
            if (!((byte >> ci) & 1u)) continue;
            const double* xi = packed + 3 * ((i_first + ci) << CLUSTER_BITS);
            const int at = (jm << super_bits) + ci;
            double squared[1 << CLUSTER_BITS];  // two loops without branches: g++ makes vectors of them
            for (int ii = 0; ii < size; ++ii) {
                const double d = (xi[ii] + sa) - a, e = (xi[size + ii] + sb) - b;
                const double f = (xi[2 * size + ii] + sc) - c;
                squared[ii] = d * d + e * e + f * f;
            }
            for (int ii = 0; ii < size; ++ii) kept[ii] |= (u32)(squared[ii] < limit) << at;
            if (ci == last) {
                for (int ii = jj; ii < size; ++ii) kept[ii] &= ~(1u << at);
            }
        }
    }
    for (int ii = 0; ii < size; ++ii) words[ii] = kept[ii];
    if (excl != 0 && wanted != 0u) {
        const long long first = (long long)excl_ind[part] << (CLUSTER_BITS + half_bits);
        const u32* allowed = excl + first + ((jj & (half_size - 1)) << CLUSTER_BITS);
        for (int ii = 0; ii < size; ++ii) words[ii] &= allowed[ii];
    }
}

AB_KERNEL(keep_clusters_8,
          (const int* sci, const int* owner, const int* cj, const u32* imask, const int* excl_ind,
           const u32* excl, const double* packed, const double* shift_vectors, long long super_bits,
           long long half_bits, long long intra_grid, double limit, u32* keep),
          keep_row<3>(k, sci, owner, cj, imask, excl_ind, excl, packed, shift_vectors, super_bits,
                      half_bits, intra_grid, limit, keep))

AB_KERNEL(keep_clusters_4,
          (const int* sci, const int* owner, const int* cj, const u32* imask, const int* excl_ind,
           const u32* excl, const double* packed, const double* shift_vectors, long long super_bits,
           long long half_bits, long long intra_grid, double limit, u32* keep),
          keep_row<2>(k, sci, owner, cj, imask, excl_ind, excl, packed, shift_vectors, super_bits,
                      half_bits, intra_grid, limit, keep))

// The next kept pair of a lane as slots; takes its bit out of the word.
AB_BODY void next_pair(u32* word, long long k, const int* sci_row, const int* cj,
                       long long cluster_bits, long long super_bits, long long* i, long long* j)
{
    const int bit = lowest_bit(*word), size = 1 << cluster_bits;
    const int jj = (int)(k >> cluster_bits) & (size - 1), ii = (int)k & (size - 1);
    const int jm = bit >> super_bits, ci = bit & ((1 << super_bits) - 1);
    const long long group = k >> (2 * cluster_bits);
    *word &= *word - 1u;
    *i = ((((long long)sci_row[0] << super_bits) + ci) << cluster_bits) + ii;
    *j = ((long long)cj[group * (32 >> super_bits) + jm] << cluster_bits) + jj;
}

AB_BODY void count_lane(long long k, const u32* keep, const int* sci, const int* owner, const int* cj,
                        const int* place, long long cluster_bits, long long super_bits, int* counts)
{
    u32 word = keep[k];
    if (word == 0u) return;
    const int* row = sci + 4 * (long long)owner[k >> (2 * cluster_bits)];
    while (word != 0u) {
        long long i, j;
        next_pair(&word, k, row, cj, cluster_bits, super_bits, &i, &j);
        fetch_increment(counts + place[i]);
        fetch_increment(counts + place[j]);
    }
}

AB_KERNEL(count_clusters,
          (const u32* keep, const int* sci, const int* owner, const int* cj, const int* place,
           long long cluster_bits, long long super_bits, int* counts),
          count_lane(k, keep, sci, owner, cj, place, cluster_bits, super_bits, counts))

AB_BODY void fill_lane(long long k, const u32* keep, const int* sci, const int* owner, const int* cj,
                       const int* place, const int* codes, long long n_codes, long long cluster_bits,
                       long long super_bits, int* cursor, int* row_second, int* row_code)
{
    u32 word = keep[k];
    if (word == 0u) return;
    const int* row = sci + 4 * (long long)owner[k >> (2 * cluster_bits)];
    const int code = codes[row[1]];
    while (word != 0u) {
        long long i, j;
        next_pair(&word, k, row, cj, cluster_bits, super_bits, &i, &j);
        const int a = place[i], b = place[j];
        const int there = fetch_increment(cursor + a);
        row_second[there] = b;
        row_code[there] = code;
        const int back = fetch_increment(cursor + b);
        row_second[back] = a;
        row_code[back] = (int)(n_codes - 1) - code;
    }
}

AB_KERNEL(fill_clusters,
          (const u32* keep, const int* sci, const int* owner, const int* cj, const int* place,
           const int* codes, long long n_codes, long long cluster_bits, long long super_bits,
           int* cursor, int* row_second, int* row_code),
          fill_lane(k, keep, sci, owner, cj, place, codes, n_codes, cluster_bits, super_bits, cursor,
                    row_second, row_code))

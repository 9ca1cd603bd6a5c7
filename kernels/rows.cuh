// Candidate pairs by rows: entry k of row i is the pair (i, second[k], shift number code[k]), for
// starts[i] <= k < starts[i + 1]. Both directions of every pair are there; the shift of the reverse
// has the number n_codes - 1 - code.

#pragma once
#include "common.cuh"

AB_BODY void count_pair(long long k, const int* first, const int* second, long long both, int* counts)
{
    fetch_increment(counts + first[k]);
    if (both) fetch_increment(counts + second[k]);
}

AB_KERNEL(count_pairs, (const int* first, const int* second, long long both, int* counts),
          count_pair(k, first, second, both, counts))

AB_BODY void fill_pair(long long k, const int* first, const int* second, const int* code,
                       long long both, long long n_codes, int* cursor, int* row_second, int* row_code)
{
    const int i = first[k], j = second[k], c = code[k];
    int place = fetch_increment(cursor + i);
    row_second[place] = j;
    row_code[place] = c;
    if (both) {
        place = fetch_increment(cursor + j);
        row_second[place] = i;
        row_code[place] = (int)(n_codes - 1) - c;
    }
}

AB_KERNEL(fill_pairs,
          (const int* first, const int* second, const int* code, long long both, long long n_codes,
           int* cursor, int* row_second, int* row_code),
          fill_pair(k, first, second, code, both, n_codes, cursor, row_second, row_code))

AB_BODY u64 sort_key(int second, int code)
{
    return ((u64)(u32)second << 32) | (u32)code;
}

// Shell sort: rows are short, and often nearly sorted.
AB_BODY void sort_row(long long i, const int* starts, int* second, int* code, int* repeated)
{
    const int begin = starts[i], end = starts[i + 1];
    int sorted = 1;
    for (int k = begin + 1; k < end; ++k)
        if (sort_key(second[k], code[k]) < sort_key(second[k - 1], code[k - 1])) {
            sorted = 0;
            break;
        }
    const int gaps[6] = {701, 132, 57, 23, 10, 1};
    for (int g = 0; g < 6 && !sorted; ++g) {
        const int gap = gaps[g];
        // a wider gap pays only in long rows
        if (gap > 1 && end - begin < 2 * gap + 16) continue;
        for (int k = begin + gap; k < end; ++k) {
            const int s = second[k], c = code[k];
            const u64 key = sort_key(s, c);
            int m = k;
            while (m - gap >= begin && sort_key(second[m - gap], code[m - gap]) > key) {
                second[m] = second[m - gap];
                code[m] = code[m - gap];
                m -= gap;
            }
            second[m] = s;
            code[m] = c;
        }
    }
    int found = -1;
    for (int k = begin + 1; k < end; ++k) {
        if (second[k] == second[k - 1] && code[k] == code[k - 1]) found = k;
    }
    repeated[i] = found;
}

AB_KERNEL(sort_rows, (const int* starts, int* second, int* code, int* repeated),
          sort_row(k, starts, second, code, repeated))

// For every entry of row i the place of its reverse, -1 where there is none.
AB_BODY void find_reverse(long long i, const int* starts, const int* second, const int* code,
                          long long n_codes, int* reverse)
{
    for (int k = starts[i]; k < starts[i + 1]; ++k) {
        const int j = second[k];
        const u64 key = sort_key((int)i, (int)(n_codes - 1) - code[k]);
        int low = starts[j], high = starts[j + 1];
        while (low < high) {
            const int middle = low + (high - low) / 2;
            if (sort_key(second[middle], code[middle]) < key) low = middle + 1;
            else high = middle;
        }
        const int there = low < starts[j + 1] && sort_key(second[low], code[low]) == key;
        reverse[k] = there ? low : -1;
    }
}

AB_KERNEL(reverse_rows,
          (const int* starts, const int* second, const int* code, long long n_codes, int* reverse),
          find_reverse(k, starts, second, code, n_codes, reverse))

// --- for one thread of a host, in the order of the rows ------------------------------------------

// Writes the reverse of every entry into rows of the same sizes. The rows come out sorted by the
// other atom, since it is met in ascending order.
AB_BODY void transpose_row(long long i, const int* starts, const int* second, const int* code,
                           long long n_codes, int* cursor, int* row_second, int* row_code)
{
    for (int k = starts[i]; k < starts[i + 1]; ++k) {
        const int place = fetch_increment(cursor + second[k]);
        row_second[place] = (int)i;
        row_code[place] = (int)(n_codes - 1) - code[k];
    }
}

AB_KERNEL(transpose_rows,
          (const int* starts, const int* second, const int* code, long long n_codes, int* cursor,
           int* row_second, int* row_code),
          transpose_row(k, starts, second, code, n_codes, cursor, row_second, row_code))

// Like find_reverse, without a search: row j is met by its partners in the order of its entries.
// Several images of one atom come together, their reverses in the opposite order. Where that does
// not fit, a pair lacks its reverse, and -1 is written.
AB_BODY void match_row(long long i, const int* starts, const int* second, const int* code,
                       long long n_codes, int* cursor, int* reverse)
{
    const int end = starts[i + 1];
    for (int k = starts[i]; k < end;) {
        const int j = second[k];
        int next = k + 1;
        while (next < end && second[next] == j) ++next;
        const int begin = cursor[j], stop = begin + (next - k);
        cursor[j] = stop;
        for (int m = k; m < next; ++m) {
            const int there = stop - 1 - (m - k);
            const int fits = stop <= starts[j + 1] && second[there] == (int)i
                             && code[there] == (int)(n_codes - 1) - code[m];
            reverse[m] = fits ? there : -1;
        }
        k = next;
    }
}

AB_KERNEL(match_rows,
          (const int* starts, const int* second, const int* code, long long n_codes, int* cursor,
           int* reverse),
          match_row(k, starts, second, code, n_codes, cursor, reverse))

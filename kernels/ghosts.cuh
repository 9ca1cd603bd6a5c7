// Rows of neighbours as an engine holds them -> candidate rows. Row r is that of atom atoms[r]; its
// entries are neighbors[begin[r] + e * step] for 0 <= e < counts[r], so that CSR arrays and padded
// matrices in either order look the same. `mask` takes flags off the indices, and entries that are
// `padding` are none. Everything was checked before: no index is out of range.

#pragma once
#include "common.cuh"

// --- checks --------------------------------------------------------------------------------------

// Four numbers for row r: lowest and highest index, whether the row's own atom is among them, and
// how many entries are padding.
AB_BODY void entry_facts_row(long long r, const int* atoms, const long long* begin, const int* counts,
                             const int* neighbors, long long step, long long mask, long long padding,
                             int* facts)
{
    const int* row = neighbors + begin[r];
    int low = 2147483647, high = -2147483647 - 1, itself = 0, padded = 0;
    for (int e = 0; e < counts[r]; ++e) {
        const int raw = row[e * step];
        if (raw == padding) {
            ++padded;
            continue;
        }
        const int b = raw & (int)mask;
        if (b < low) low = b;
        if (b > high) high = b;
        if (b == atoms[r]) itself = 1;
    }
    facts[4 * r] = low;
    facts[4 * r + 1] = high;
    facts[4 * r + 2] = itself;
    facts[4 * r + 3] = padded;
}

AB_KERNEL(entry_facts,
          (const int* atoms, const long long* begin, const int* counts, const int* neighbors,
           long long step, long long mask, long long padding, int* facts),
          entry_facts_row(k, atoms, begin, counts, neighbors, step, mask, padding, facts))

// --- images --------------------------------------------------------------------------------------

// Which image of its owner atom k is: the whole cells between the two. frame: 9 numbers of the
// inverse of the cell (columns of directions that are not periodic are zero), 9 of the cell; rows are
// vectors. `misfit` is what is left over, in units of the rounding that is allowed; huge where there
// is no answer.
AB_BODY void ghost_image(long long k, const double* x, const int* owner, const double* frame,
                         double rounding, int* shifts, double* misfit)
{
    const long long o = owner[k];
    int* s = shifts + 3 * k;
    s[0] = s[1] = s[2] = 0;
    misfit[k] = 0.0;
    if (o == k) return;
    const double* a = x + 3 * o;
    const double* b = x + 3 * k;
    double d[3], cells[3], extent = 0.0, worst = 0.0;
    int whole = 1, moved = 0;
    for (int m = 0; m < 3; ++m) {
        d[m] = b[m] - a[m];
        if (fabs(a[m]) > extent) extent = fabs(a[m]);
        if (fabs(b[m]) > extent) extent = fabs(b[m]);
    }
    for (int m = 0; m < 3; ++m) {
        cells[m] = rint((d[0] * frame[m] + d[1] * frame[3 + m]) + d[2] * frame[6 + m]);
        if (!(fabs(cells[m]) < 536870912.0)) whole = 0;
        else if (cells[m] != 0.0) moved = 1;
    }
    if (!whole || !moved) {
        misfit[k] = 1.0e300;
        return;
    }
    for (int m = 0; m < 3; ++m) {
        s[m] = (int)cells[m];
        const double p = cells[0] * frame[9 + m], q = cells[1] * frame[12 + m],
                     t = cells[2] * frame[15 + m];
        const double left = fabs(d[m] - ((p + q) + t));
        if (left > worst) worst = left;
        const double size = (fabs(p) + fabs(q)) + fabs(t);
        if (size > extent) extent = size;
    }
    misfit[k] = worst / (rounding * extent);
}

AB_KERNEL(ghost_images,
          (const double* x, const int* owner, const double* frame, double rounding, int* shifts,
           double* misfit),
          ghost_image(k, x, owner, frame, rounding, shifts, misfit))

// Shifts of the entries of row r, from its place r * width on, for atoms that interact with the
// nearest image of each other.
AB_BODY void nearest_row(long long r, const int* atoms, const long long* begin, const int* counts,
                         const int* neighbors, long long step, long long mask, long long padding,
                         const double* x, const double* frame, long long width, int* shifts)
{
    const double* a = x + 3 * (long long)atoms[r];
    for (int e = 0; e < counts[r]; ++e) {
        const int raw = neighbors[begin[r] + e * step];
        if (raw == padding) continue;
        const double* b = x + 3 * (long long)(raw & (int)mask);
        const double d[3] = {b[0] - a[0], b[1] - a[1], b[2] - a[2]};
        int* s = shifts + 3 * (r * width + e);
        for (int m = 0; m < 3; ++m)
            s[m] = -(int)rint((d[0] * frame[m] + d[1] * frame[3 + m]) + d[2] * frame[6 + m]);
    }
}

AB_KERNEL(nearest_images,
          (const int* atoms, const long long* begin, const int* counts, const int* neighbors,
           long long step, long long mask, long long padding, const double* x, const double* frame,
           long long width, int* shifts),
          nearest_row(k, atoms, begin, counts, neighbors, step, mask, padding, x, frame, width, shifts))

// --- shifts of a matrix --------------------------------------------------------------------------

// Seven numbers for row r: lowest and highest shift along each vector, and whether the row's own atom
// is among its neighbours without a shift.
AB_BODY void shift_facts_row(long long r, const int* atoms, const long long* begin, const int* counts,
                             const int* neighbors, long long step, long long mask, long long padding,
                             const int* shifts, long long row_stride, long long entry_stride,
                             long long element_stride, int* facts)
{
    int low[3] = {0, 0, 0}, high[3] = {0, 0, 0}, itself = 0;
    for (int e = 0; e < counts[r]; ++e) {
        const int raw = neighbors[begin[r] + e * step];
        if (raw == padding) continue;
        const int* s = shifts + r * row_stride + e * entry_stride;
        int zero = 1;
        for (int m = 0; m < 3; ++m) {
            const int v = s[m * element_stride];
            if (v < low[m]) low[m] = v;
            if (v > high[m]) high[m] = v;
            if (v != 0) zero = 0;
        }
        if (zero && (raw & (int)mask) == atoms[r]) itself = 1;
    }
    for (int m = 0; m < 3; ++m) {
        facts[7 * r + m] = low[m];
        facts[7 * r + 3 + m] = high[m];
    }
    facts[7 * r + 6] = itself;
}

AB_KERNEL(shift_facts,
          (const int* atoms, const long long* begin, const int* counts, const int* neighbors,
           long long step, long long mask, long long padding, const int* shifts, long long row_stride,
           long long entry_stride, long long element_stride, int* facts),
          shift_facts_row(k, atoms, begin, counts, neighbors, step, mask, padding, shifts, row_stride,
                          entry_stride, element_stride, facts))

// Numbers of the shifts of row r in a grid of all shifts up to (mx, my, mz).
AB_BODY void shift_codes_row(long long r, const long long* begin, const int* counts,
                             const int* neighbors, long long step, long long padding,
                             const int* shifts, long long row_stride, long long entry_stride,
                             long long element_stride, long long mx, long long my, long long mz,
                             long long width, int* codes)
{
    for (int e = 0; e < counts[r]; ++e) {
        if (neighbors[begin[r] + e * step] == padding) continue;
        const int* s = shifts + r * row_stride + e * entry_stride;
        const long long x = s[0] + mx, y = s[element_stride] + my, z = s[2 * element_stride] + mz;
        codes[r * width + e] = (int)((x * (2 * my + 1) + y) * (2 * mz + 1) + z);
    }
}

AB_KERNEL(shift_codes,
          (const long long* begin, const int* counts, const int* neighbors, long long step,
           long long padding, const int* shifts, long long row_stride, long long entry_stride,
           long long element_stride, long long mx, long long my, long long mz, long long width,
           int* codes),
          shift_codes_row(k, begin, counts, neighbors, step, padding, shifts, row_stride, entry_stride,
                          element_stride, mx, my, mz, width, codes))

// --- rows to candidates --------------------------------------------------------------------------

// Whether the row of halo atom o lists atom a with shift `code`.
AB_BODY int lists(int o, int a, int code, const long long* begin, const int* counts,
                  const int* neighbors, long long step, long long mask, long long padding,
                  const int* owner, const int* row_of, const int* atom_code)
{
    const int r = row_of[o];
    if (r < 0) return 0;
    for (int e = 0; e < counts[r]; ++e) {
        const int raw = neighbors[begin[r] + e * step];
        if (raw == padding) continue;
        const int b = raw & (int)mask;
        if (owner[b] == a && atom_code[b] == code) return 1;
    }
    return 0;
}

// Goes through row r, and counts (second is null) or writes what each entry becomes: nothing, a
// candidate, or a candidate and its reverse. Without `owner` there are no ghosts. With it:
// - Rows of images say what their owner's row says: nothing.
// - A pair of two local atoms (or their images) is in a full list from both sides. A half list has it
//   once with newton; without, once between local atoms proper, and from both sides through ghosts.
// - A pair with a halo atom comes from the local atom's row: what the halo atom's row has is the same.
// - A pair of halo atoms comes from both rows, where both have it; where the image that the other row
//   would need is not on this rank, its reverse is added.
AB_BODY void visit_row(long long r, const int* atoms, const long long* begin, const int* counts,
                       const int* neighbors, long long step, long long mask, long long padding,
                       const int* owner, const int* row_of, const int* atom_code,
                       const int* entry_code, long long width, long long n_local, long long full,
                       long long newton, long long n_codes, const int* place, int* cursor,
                       int* second, int* code)
{
    const int a = atoms[r];
    if (owner && owner[a] != a) return;
    const int last = (int)n_codes - 1;
    const int row = place ? place[a] : a;
    if (row < 0) return;
    for (int e = 0; e < counts[r]; ++e) {
        const int raw = neighbors[begin[r] + e * step];
        if (raw == padding) continue;
        const int b = raw & (int)mask;
        const int o = owner ? owner[b] : b;
        const int column = place ? place[o] : o;
        if (column < 0) continue;
        const int c = atom_code ? atom_code[b] : entry_code ? entry_code[r * width + e] : last / 2;
        int reverse = !full;
        if (owner) {
            if (a >= n_local) {
                if (o < n_local) continue;
                reverse = o == b ? row_of[o] < 0
                                 : !lists(o, a, last - c, begin, counts, neighbors, step, mask, padding,
                                          owner, row_of, atom_code);
            } else if (o >= n_local) {
                reverse = 1;
            } else {
                reverse = !full && (newton || b < n_local);
            }
        }
        int at = fetch_increment(cursor + row);
        if (second) {
            second[at] = column;
            code[at] = c;
        }
        if (!reverse) continue;
        at = fetch_increment(cursor + column);
        if (second) {
            second[at] = row;
            code[at] = last - c;
        }
    }
}

AB_KERNEL(visit_rows,
          (const int* atoms, const long long* begin, const int* counts, const int* neighbors,
           long long step, long long mask, long long padding, const int* owner, const int* row_of,
           const int* atom_code, const int* entry_code, long long width, long long n_local,
           long long full, long long newton, long long n_codes, const int* place, int* cursor,
           int* second, int* code),
          visit_row(k, atoms, begin, counts, neighbors, step, mask, padding, owner, row_of, atom_code,
                    entry_code, width, n_local, full, newton, n_codes, place, cursor, second, code))

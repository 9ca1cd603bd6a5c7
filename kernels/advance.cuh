// The engine's coordinates become the provider's: units, precision, layout and subset, and how far
// each atom moved since the pair search.

#pragma once
#include "common.cuh"

// Atoms of one index. Fixed: the partial results depend on it, and so does nothing else.
#define AB_CHUNK 64

// An atom that is more cells away than this was not wrapped by an engine: it is lost.
#define AB_MOST_CELLS 1024.0

// Numbers per chunk: largest squared displacement, whether a coordinate is not finite, and the
// largest displacement along +x, +y, +z, -x, -y, -z of the atoms that are not lost.
#define AB_FACTS 8

// frame: 9 numbers of F with cell = cell_at_search @ F, 9 of the inverse of the cell (columns of
// directions that are not periodic are zero), 9 of the cell; rows are vectors.
// centre: a common displacement that is left out of the squared one: a drift changes no pair.
template <typename X, typename W, typename M>
AB_BODY void advance_chunk(long long k, const X* x, long long row_stride, long long element_stride,
                           const long long* subset, long long n_atoms, double length,
                           const W* start, const double* frame, long long deformed, double cx,
                           double cy, double cz, W* wide, M* narrow, double* partial)
{
    double facts[AB_FACTS];
    facts[0] = 0.0;
    facts[1] = 0.0;
    for (int m = 2; m < AB_FACTS; ++m) facts[m] = -1.0e300;
    const long long begin = k * AB_CHUNK;
    const long long end = begin + AB_CHUNK < n_atoms ? begin + AB_CHUNK : n_atoms;
    for (long long i = begin; i < end; ++i) {
        double p[3];
        load3(x, subset ? subset[i] : i, row_stride, element_stride, p);
        for (int m = 0; m < 3; ++m) p[m] = (double)(W)(p[m] * length);
        if (start) {
            double s[3] = {(double)start[3 * i], (double)start[3 * i + 1], (double)start[3 * i + 2]};
            if (deformed) {
                double t[3];
                for (int m = 0; m < 3; ++m)
                    t[m] = s[0] * frame[m] + s[1] * frame[3 + m] + s[2] * frame[6 + m];
                for (int m = 0; m < 3; ++m) s[m] = t[m];
            }
            double u[3] = {p[0] - s[0] - cx, p[1] - s[1] - cy, p[2] - s[2] - cz};
            // whole cells: the engine wrapped the atom; the pair list refers to where it was before
            double cells[3];
            int wrapped = 0, lost = 0;
            for (int m = 0; m < 3; ++m) {
                const double f = u[0] * frame[9 + m] + u[1] * frame[12 + m] + u[2] * frame[15 + m];
                cells[m] = rint(f);
                if (cells[m] != 0.0) wrapped = 1;
                if (!(fabs(cells[m]) <= AB_MOST_CELLS)) lost = 1;
            }
            if (wrapped && !lost) {
                for (int m = 0; m < 3; ++m) {
                    const double back = cells[0] * frame[18 + m] + cells[1] * frame[21 + m]
                                        + cells[2] * frame[24 + m];
                    p[m] = (double)(W)(p[m] - back);
                    u[m] -= back;
                }
            }
            const double square = u[0] * u[0] + u[1] * u[1] + u[2] * u[2];
            if (square > facts[0]) facts[0] = square;
            const double c[3] = {cx, cy, cz};
            // a lost atom says nothing of where the others drift
            for (int m = 0; m < 3; ++m) {
                const double moved = u[m] + c[m];
                if (!lost && moved > facts[2 + m]) facts[2 + m] = moved;
                if (!lost && -moved > facts[5 + m]) facts[5 + m] = -moved;
            }
        }
        for (int m = 0; m < 3; ++m) {
            if (!(fabs(p[m]) <= 1.7976931348623157e308)) facts[1] = 1.0;
            wide[3 * i + m] = (W)p[m];
            if (narrow) narrow[3 * i + m] = (M)p[m];
        }
    }
    for (int m = 0; m < AB_FACTS; ++m) partial[k * AB_FACTS + m] = facts[m];
}

// Names end in the types of the engine's coordinates, of the working ones, and of the model's.

AB_KERNEL(advance_fff,
          (const float* x, long long row_stride, long long element_stride, const long long* subset,
           long long n_atoms, double length, const float* start, const double* frame,
           long long deformed, double cx, double cy, double cz, float* wide, float* narrow,
           double* partial),
          advance_chunk<float, float, float>(k, x, row_stride, element_stride, subset, n_atoms, length,
                                     start, frame, deformed, cx, cy, cz, wide, narrow, partial))

AB_KERNEL(advance_fdd,
          (const float* x, long long row_stride, long long element_stride, const long long* subset,
           long long n_atoms, double length, const double* start, const double* frame,
           long long deformed, double cx, double cy, double cz, double* wide, double* narrow,
           double* partial),
          advance_chunk<float, double, double>(k, x, row_stride, element_stride, subset, n_atoms, length,
                                     start, frame, deformed, cx, cy, cz, wide, narrow, partial))

AB_KERNEL(advance_ddf,
          (const double* x, long long row_stride, long long element_stride, const long long* subset,
           long long n_atoms, double length, const double* start, const double* frame,
           long long deformed, double cx, double cy, double cz, double* wide, float* narrow,
           double* partial),
          advance_chunk<double, double, float>(k, x, row_stride, element_stride, subset, n_atoms, length,
                                     start, frame, deformed, cx, cy, cz, wide, narrow, partial))

AB_KERNEL(advance_ddd,
          (const double* x, long long row_stride, long long element_stride, const long long* subset,
           long long n_atoms, double length, const double* start, const double* frame,
           long long deformed, double cx, double cy, double cz, double* wide, double* narrow,
           double* partial),
          advance_chunk<double, double, double>(k, x, row_stride, element_stride, subset, n_atoms, length,
                                     start, frame, deformed, cx, cy, cz, wide, narrow, partial))

// Atom k of several systems, in the frame of their lists: frames + 27 * system[k] are those of
// advance_chunk, and 9 numbers of F count if it is `deformed`. `start` may have come from other steps
// than one another; squares[k] is how far the atom is from there, nothing left out.
template <typename W>
AB_BODY void reframe_atom(long long k, const W* x, const W* start, const long long* system,
                          const double* frames, long long deformed, W* framed, double* squares)
{
    const double* frame = frames + 27 * system[k];
    double s[3] = {(double)start[3 * k], (double)start[3 * k + 1], (double)start[3 * k + 2]};
    if (deformed) {
        double t[3];
        for (int m = 0; m < 3; ++m)
            t[m] = s[0] * frame[m] + s[1] * frame[3 + m] + s[2] * frame[6 + m];
        for (int m = 0; m < 3; ++m) s[m] = t[m];
    }
    double u[3];
    for (int m = 0; m < 3; ++m) u[m] = (double)x[3 * k + m] - s[m];
    double cells[3];
    int wrapped = 0, lost = 0;
    for (int m = 0; m < 3; ++m) {
        cells[m] = rint(u[0] * frame[9 + m] + u[1] * frame[12 + m] + u[2] * frame[15 + m]);
        if (cells[m] != 0.0) wrapped = 1;
        if (!(fabs(cells[m]) <= AB_MOST_CELLS)) lost = 1;
    }
    const int moved_back = wrapped && !lost;
    for (int m = 0; m < 3; ++m) {
        W p = x[3 * k + m];
        if (moved_back) {
            const double back = cells[0] * frame[18 + m] + cells[1] * frame[21 + m]
                                + cells[2] * frame[24 + m];
            p = (W)((double)p - back);
            u[m] -= back;
        }
        framed[3 * k + m] = p;
    }
    squares[k] = u[0] * u[0] + u[1] * u[1] + u[2] * u[2];
}

AB_KERNEL(reframe_f,
          (const float* x, const float* start, const long long* system, const double* frames,
           long long deformed, float* framed, double* squares),
          reframe_atom<float>(k, x, start, system, frames, deformed, framed, squares))

AB_KERNEL(reframe_d,
          (const double* x, const double* start, const long long* system, const double* frames,
           long long deformed, double* framed, double* squares),
          reframe_atom<double>(k, x, start, system, frames, deformed, framed, squares))

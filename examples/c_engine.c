/* A whole engine in C: argon at constant energy, forces from any metatomic model for it.
 *
 *   cc -I"$(alchemi-bridge plugin c --include)" c_engine.c -o c_engine -ldl -lm
 *   ./c_engine "$(alchemi-bridge plugin c)" argon.pt
 */
#include "alchemi_bridge.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define N 108          /* 3 x 3 x 3 cubic cells of four atoms */
#define A 5.3          /* lattice constant, Å */
#define BOX (3 * A)
#define MASS 0.0041403 /* of argon, eV ps^2/Å^2: 39.948 u */
#define DT 0.002       /* ps */

static const ab_functions *ab;

static void check(int32_t code) {
    if (code == AB_OK) return;
    fprintf(stderr, "error %d: %s\n", (int)code, ab->message());
    exit(1);
}

static ab_array rows(void *data, int64_t n, int64_t width, int32_t dtype) {
    ab_array array = {data, {n, width, 1}, {width, 1, 1}, dtype, width > 1 ? 2 : 1, AB_HOST, 0};
    return array;
}

int main(int argc, char **argv) {
    static double x[3 * N], v[3 * N], f[3 * N];
    static int32_t types[N];
    double energy[1], kinetic;
    char message[1024] = "usage: c_engine LIBRARY MODEL";
    void *library = argc == 3 ? dlopen(argv[1], RTLD_NOW) : NULL;
    ab_get_functions get = NULL;
    if (library) *(void **)&get = dlsym(library, ALCHEMI_BRIDGE_SYMBOL);
    ab = get ? get(ALCHEMI_BRIDGE_VERSION, message, sizeof message) : NULL;
    if (!ab) return fprintf(stderr, "%s\n", argc == 3 && !get ? dlerror() : message), 1;

    for (int i = 0; i < N; ++i) { /* a crystal with a wave in it */
        const int cell = i / 4, at = i % 4, place[3] = {cell / 9, cell / 3 % 3, cell % 3};
        for (int d = 0; d < 3; ++d) x[3 * i + d] = A * (place[d] + (at && at != d + 1 ? 0.5 : 0.0));
        for (int d = 0; d < 3; ++d) v[3 * i + d] = 2.0 * sin(6.283185307 * x[3 * i + (d + 1) % 3] / BOX);
        types[i] = 18;
    }
    ab_provider *model;
    const char *keywords[] = {"device", "cpu"};
    ab_options options = {.struct_size = sizeof options, .version = ALCHEMI_BRIDGE_VERSION, .model = argv[2],
                          .keywords = keywords, .n_keywords = 1, .local_rank = -1, .local_size = -1};
    check(ab->open(&options, &model));
    ab_atoms atoms = {.struct_size = sizeof atoms, .types = rows(types, N, 1, AB_INT32)};
    check(ab->set_atoms(model, &atoms));
    ab_pairs pairs = {.struct_size = sizeof pairs, .kind = AB_PAIRS_SEARCH, .reach = 1.0, /* skin, Å */
                      .cell = {BOX, 0, 0, 0, BOX, 0, 0, 0, BOX}, .periodic = {1, 1, 1}};
    check(ab->set_pairs(model, &pairs)); /* the provider searches, now and when it has to */
    ab_step step = {.struct_size = sizeof step, .positions = rows(x, N, 3, AB_FLOAT64),
                    .cell = {BOX, 0, 0, 0, BOX, 0, 0, 0, BOX}, .periodic = {1, 1, 1}};
    ab_buffers out = {.struct_size = sizeof out, .forces = rows(f, N, 3, AB_FLOAT64),
                      .energy = rows(energy, 1, 1, AB_FLOAT64)};

    for (int n = 0; n <= 200; ++n) { /* velocity Verlet; results are added, so clear them first */
        for (int k = 0; n && k < 3 * N; ++k) v[k] += 0.5 * DT * f[k] / MASS, x[k] += DT * v[k];
        for (int k = 0; k < 3 * N; ++k) f[k] = 0.0;
        energy[0] = kinetic = 0.0;
        check(ab->compute(model, &step, &out));
        for (int k = 0; n && k < 3 * N; ++k) v[k] += 0.5 * DT * f[k] / MASS;
        for (int k = 0; k < 3 * N; ++k) kinetic += 0.5 * MASS * v[k] * v[k];
        if (n % 50 == 0) printf("step %3d potential %.9f total %.9f eV\n", n, energy[0], energy[0] + kinetic);
    }
    ab->close(model);
    return 0;
}

/* alchemi_bridge: the C interface of the force provider, for engines that are not written in Python.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * A provider evaluates one metatomic model for one process (one MPI rank). Its life:
 *
 *     open -> requirements -> set_atoms -> set_pairs -> compute, compute, ... -> close
 *
 * There are two clocks. `set_atoms` and `set_pairs` take what changes at a pair search, `compute`
 * what changes in every step. A new list of pairs is needed when atoms have moved so far that a pair
 * may come within the cutoff that the list lacks; the provider refuses a list that is too old. (With
 * pairs of kind AB_PAIRS_SEARCH the provider searches by itself.) After `set_atoms` a new list must
 * follow. examples/c_engine.c is a whole engine in about sixty lines.
 *
 * How to get the functions: open the library that `alchemi-bridge plugin c` prints the path of, look
 * up ALCHEMI_BRIDGE_SYMBOL, and call it. In a process without Python that starts the interpreter of
 * the environment; in a Python process it uses the one that is there, and must be called without its
 * lock (ctypes.CDLL does that). A host that is written in Python gets the address of the same table
 * from alchemi_bridge.engines.interface.address(). The library is for the environment that built it:
 * ask for its path there, and do not ship it.
 *
 * Rules
 * -----
 * - No exception and no exit crosses this interface. Every function returns AB_OK or a code, and
 *   `message` then says what was expected, what came and what to do. If `compute` fails, nothing was
 *   added to any buffer, and if `set_pairs` fails the list before is still in use. (On a GPU a result
 *   that is not finite is seen by the device only: nothing is added then either, and the error is
 *   returned by the next `compute`, by `finish`, or by this one if it waits for its results.)
 * - All memory that is handed over stays the caller's. What `open` gets may go when it returns, but
 *   for `log` and `log_user`. What `set_atoms` and `set_pairs` get may be reused when they return (on
 *   a GPU: in stream order after the stream that they were told). What `compute` gets must stay until
 *   its results are complete.
 * - Results are added to the buffers, in the units, precision and strides of the caller: clear them
 *   first if they should hold these alone.
 * - Memory may be on the host, or where the model computes (requirements.memory); that of other
 *   devices is refused. If the model computes on a GPU, what is on the host is copied there and back,
 *   and `compute` returns when that is done.
 * - Units: lengths in options.length_unit, energies in options.energy_unit; force is energy/length,
 *   the virial is dE/d(strain), an energy: symmetric, positive under tension. (LAMMPS' virial is
 *   minus that, GROMACS' is half of it.)
 * - A pair (first, second, shift) has the vector x[second] - x[first] + shift . cell; rows of the cell
 *   are its vectors. Positions are never wrapped or moved by the provider. The engine may wrap an atom
 *   by whole cell vectors between two searches: the provider notices, and the list still holds.
 * - A cell has a vector for each periodic direction; vectors of the others are not looked at.
 * - Functions may be called from any thread, for one provider by one at a time.
 * - A caller zero-initialises every structure and sets struct_size = sizeof(structure): fields that are
 *   added later then read as "not given". The library takes structures that are shorter than its own,
 *   from a header that is older; longer ones are AB_ERROR_VERSION. ab_array and ab_input have no size,
 *   and do not change.
 * - Indices begin at 0.
 *
 * Under domain decomposition each rank has its home atoms, and halo atoms of other ranks as far as
 * requirements.halo_range (not only the cutoff: a message-passing model reaches farther), names the home
 * atoms as `selected`, so that their energies count and no others, and sends the forces on halo atoms
 * to their owners. Energy and virial of the ranks are summed by the engine.
 */
#ifndef ALCHEMI_BRIDGE_H
#define ALCHEMI_BRIDGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Version of this interface. It changes when something is no longer as it was; what is only added
 *  is told by struct_size. */
#define ALCHEMI_BRIDGE_VERSION 1

/** Name of the only symbol that the library has to offer, of type ab_get_functions. */
#define ALCHEMI_BRIDGE_SYMBOL "alchemi_bridge_functions"

/** What functions return. */
enum ab_status {
    AB_OK = 0,
    AB_ERROR_INPUT = 1,         /**< data of the engine: shape, dtype, device, not finite, overlap,
                                     types of atoms that the model does not know */
    AB_ERROR_PAIRS = 2,         /**< the pair list is inconsistent or too short */
    AB_ERROR_STALE = 3,         /**< the pair list is too old: search again */
    AB_ERROR_MODEL = 4,         /**< the model can not be loaded, trusted or evaluated, lacks what is
                                     asked for, or wants an input that was not handed over */
    AB_ERROR_CONFIGURATION = 5, /**< options that contradict each other or do not exist, units */
    AB_ERROR_PROTOCOL = 6,      /**< calls in the wrong order, NULL, a provider that is closed */
    AB_ERROR_VERSION = 7,       /**< caller and library do not speak the same version */
    AB_ERROR_INTERNAL = 8       /**< anything else; the message says what */
};

/** Type of an array's elements. Unsigned 32-bit words (masks) are AB_INT32, too: the bits count. */
enum ab_dtype { AB_ABSENT = 0, AB_FLOAT32 = 1, AB_FLOAT64 = 2, AB_INT32 = 3, AB_INT64 = 4 };

/** Where memory is. */
enum ab_memory { AB_HOST = 0, AB_CUDA = 1 };

/** Memory of the engine, as it lies there. All zero: not given. An array without elements is given,
 *  and has a dtype; its address is not looked at. Only buffers of results are written to. */
typedef struct ab_array {
    void *data;        /**< address of element [0, 0, 0], aligned to the element */
    int64_t extent[3]; /**< the first `ndim` count */
    int64_t stride[3]; /**< distance of neighbours along each axis, in elements (not bytes), not
                            negative; (n, 3) in rows of four numbers: {4, 1} */
    int32_t dtype;     /**< ab_dtype */
    int32_t ndim;      /**< 1, 2 or 3 */
    int32_t memory;    /**< ab_memory */
    int32_t device;    /**< index of the CUDA device, if it is there */
} ab_array;

/** Severity of what goes to ab_options.log. Text of AB_LOG_INFO comes only if the process has set up
 *  Python's logging to let it through (logger "alchemi_bridge"). */
enum ab_level { AB_LOG_INFO = 0, AB_LOG_WARNING = 1 };

/** Receives text in UTF-8, valid during the call; called from within the functions below only, in the
 *  thread that called them. It must return, and must not call them itself. */
typedef void (*ab_log)(void *user, int32_t level, const char *text);

/** How to open a provider. */
typedef struct ab_options {
    uint32_t struct_size;
    uint32_t version;              /**< ALCHEMI_BRIDGE_VERSION */
    const char *model;             /**< path of a metatomic model */
    const char *length_unit;       /**< such as "angstrom"; NULL for that */
    const char *energy_unit;       /**< such as "eV"; NULL for that */
    /** 2 * n_keywords strings: name, value, name, value, ... each name once. The names are those of
     *  the LAMMPS pair style ("yes" and "true" are "on", "no" and "false" are "off"):
     *  - device: "cpu", "cuda", "cuda:1"; else a GPU if model and machine have one, and then the one
     *    of this rank on its node;
     *  - extensions: folder with the model's extension libraries;
     *  - sha256: digest that the model file must have;
     *  - check_consistency: "on" lets metatomic check inputs and outputs in every step (slow);
     *  - non_conservative: "on", "off", "forces" or "stress": predicted by the model, not derived;
     *  - scale: number that all results are multiplied by;
     *  - uncertainty_threshold: meV for an atom's energy (default 100), or "off": atoms beyond it are
     *    named in a warning;
     *  - variant (of everything that has it), variant/energy, variant/energy_uncertainty,
     *    variant/non_conservative_forces, variant/non_conservative_stress: which variant of the
     *    model's outputs;
     *  - tuning: "on" tries the ways of running the model in the first steps and keeps the fastest
     *    (they differ in the last digits); "off" by default;
     *  - threads: of torch; by default OMP_NUM_THREADS, or one where the library started Python. */
    const char *const *keywords;
    int32_t n_keywords;
    int32_t local_rank; /**< number of this rank on its node, for the choice of a GPU; -1: as the
                             launcher's environment says */
    int32_t local_size; /**< how many ranks the node has; -1 if not known */
    int32_t reserved;
    ab_log log;         /**< where warnings go; NULL: where Python's go, standard error */
    void *log_user;     /**< handed to `log` */
} ab_options;

/** What a provider needs of its engine, in the units of ab_options. It does not change; pointers stay
 *  valid until `close`. */
typedef struct ab_requirements {
    uint32_t struct_size;
    int32_t memory;       /**< where the model computes. Host memory is taken anyway, and copied */
    int32_t device;
    int32_t dtype;        /**< in which the model computes. Both precisions are taken anyway */
    double pair_range;    /**< distance up to which lists must be complete in every step */
    double halo_range;    /**< distance within which atoms influence an atom's energy; infinite for
                               long-range models, which can not be divided among ranks */
    int32_t energies;     /**< whether the energy of each atom can be had */
    int32_t virials;      /**< whether the virial of each atom can be had. A model whose energy depends
                               on positions or the cell besides pair vectors is found out by the first
                               `compute` that asks for them: AB_ERROR_MODEL */
    int32_t n_types;
    int32_t n_inputs;
    const int32_t *types;          /**< n_types atomic numbers that the model knows */
    const char *const *inputs;     /**< n_inputs names of what the model wants besides, with ... */
    const char *const *input_units;/**< ... their units there */
    const char *description;       /**< name, authors and references of the model, several lines */
    int32_t direct_forces; /**< whether forces are predicted and not derived: without `selected` their
                                mean is taken out; ranks have to do that together */
    int32_t direct_stress; /**< the same of the stress, of which nobody knows a rank's part */
} ab_requirements;

/** Something that the model wants besides positions, such as "charge": for each atom, or one value
 *  for the system. */
typedef struct ab_input {
    const char *name;
    const char *unit;  /**< of the values; NULL for none */
    ab_array values;   /**< (n_atoms,) or (n_atoms, 3); (1,) or (3,) for the system */
} ab_input;

/** The atoms of this rank. */
typedef struct ab_atoms {
    uint32_t struct_size;
    int32_t n_inputs;
    ab_array types;         /**< (n_atoms,) int32 or int64 atomic numbers */
    ab_array subset;        /**< indices of the atoms that the model sees; absent: all */
    ab_array selected;      /**< indices (among those of `subset`) of the atoms whose energy counts;
                                 absent: all that the model sees. The others are neighbours only, and
                                 get forces */
    ab_array ids;           /**< (n_atoms,) numbers that name the atoms in warnings; absent: their index */
    const ab_input *inputs; /**< n_inputs that stay the same; copied */
} ab_atoms;

/** Kinds of pair lists. */
enum ab_pairs_kind {
    AB_PAIRS_SEARCH = 0,   /**< none: the provider searches, and again when it has to (on the host) */
    AB_PAIRS_HALF = 1,     /**< every pair once, with shifts */
    AB_PAIRS_FULL = 2,     /**< every pair in both directions, with shifts */
    AB_PAIRS_GHOSTS = 3,   /**< rows over local and ghost atoms, as in LAMMPS */
    AB_PAIRS_MATRIX = 4,   /**< a padded matrix: Kokkos, HOOMD-blue, GPUMD, nvalchemi */
    AB_PAIRS_CLUSTERS = 5  /**< nbnxm clusters, as in GROMACS */
};

/** A pair list at its search. Which fields count depends on the kind, named first in the comments;
 *  all others are left zero. Index arrays are int32 or int64. The Python classes HalfPairs, FullPairs,
 *  GhostPairs, NeighborMatrix and ClusterPairs have the same arrays, and say more about them.
 *
 *  Pairs that are farther than `reach` may be in a list, and do no harm. It must hold
 *  every pair of atoms that the model sees, intramolecular ones, too (no exclusions of a force field).
 *  A half list has each pair in one direction, whichever.
 *
 *  MATRIX tells in one of three ways which image of an atom is meant: by `shifts`; by `owners` and
 *  `positions` of ghost atoms, as GHOSTS; or, with `positions` (n_atoms, 3) alone, it is the nearest
 *  one, in cells wider than twice the reach. Without periodic directions none of these is needed. */
typedef struct ab_pairs {
    uint32_t struct_size;
    int32_t kind;          /**< ab_pairs_kind */
    double cell[9];        /**< rows are the vectors, at the search */
    int32_t periodic[3];
    int32_t full;          /**< GHOSTS, MATRIX: whether every pair is in the rows of both atoms */
    double reach;          /**< distance up to which the list is complete: requirements.pair_range and
                                a skin; the larger the skin, the longer the list holds. SEARCH: the
                                skin alone */
    uintptr_t stream;      /**< cudaStream_t on which the arrays are written; 0 for none, 1 for the
                                default stream */
    uintptr_t ready;       /**< cudaEvent_t after which they may be read; 0 for none */

    /* HALF, FULL */
    ab_array first, second; /**< (n,) */
    ab_array shifts;        /**< (n, 3), absent: all zero; MATRIX: (rows, width, 3), or absent */

    /* GHOSTS, and MATRIX with ghosts. Local atoms come first, then ghosts. On one rank set_atoms gets
     * the n_local atoms; on several local and ghost atoms, with those that are their own owners as
     * subset and the local ones as selected */
    int64_t n_local;
    int32_t newton;         /**< half lists: 1 if pairs through ghosts are listed once; else 0 */
    uint32_t index_mask;    /**< bits of an entry that are the index; 0 for all */
    ab_array owners;        /**< (n_all,) the atom itself, or the one of which it is an image */
    ab_array positions;     /**< (n_all, 3) float32 or float64, at the search */
    ab_array rows;          /**< GHOSTS: (n_rows,) atom of each row (LAMMPS' ilist); absent: row k is
                                 that of atom k */
    ab_array counts;        /**< entries of each row: GHOSTS (n_rows,), or absent if rows follow one
                                 another; with row_pointers by atom (LAMMPS' numneigh), up to the last
                                 that has a row. MATRIX (rows,), or absent: see fill_value */
    ab_array starts;        /**< GHOSTS: where each row begins in `neighbors`: (n_rows,), without
                                 counts (n_rows + 1,). Absent if there are row_pointers */
    ab_array neighbors;     /**< GHOSTS: (n,), absent with row_pointers; MATRIX: (rows, width), any
                                 strides (column-major: {1, rows}) */
    const int32_t *const *row_pointers; /**< GHOSTS: instead of starts and neighbors, the address of
                                             each row of int32 in host memory, by atom (LAMMPS'
                                             firstneigh). Places of atoms without a row, or with an
                                             empty one, are not looked at; nobody can check that
                                             `counts` entries are there */
    ab_array margin;        /**< GHOSTS: (n_all,) float64 or absent: halo_range minus the distance of
                                 each atom (of the nearest of its images) from the nearest whose
                                 energy counts, plus what both may move until the next search; rows of
                                 atoms whose margin is below the cutoff are not evaluated */
    int64_t fill_value;     /**< MATRIX without counts: what pads the rows, each with one at least */

    /* CLUSTERS, as GROMACS' GPU kernels have them; G groups (nbnxn_cj_packed_t), in the layout of
     * cluster_size 8, clusters_per_super 8, split 2. `positions` (n_slots, 3) are in the order of the
     * slots (float4: strides {4, 1}), and those of `compute` in the order of the atoms */
    ab_array sci;           /**< (n_entries, 4): super-cluster, shift, first group, group after the last */
    ab_array cj;            /**< (G, 4); where GROMACS has it, strides are {8, 1} */
    ab_array imask;         /**< (G, 2) words; strides {8, 2} */
    ab_array excl_ind;      /**< (G, 2); strides {8, 2}; may be absent without honour_exclusions */
    ab_array excl;          /**< (n, 32) words; the same */
    ab_array atom_index;    /**< (n_slots,) atom of each slot, -1 for fillers */
    ab_array imask_outer;   /**< (G, 2) words before dynamic pruning, or absent */
    double rlist;           /**< radius for which the list is complete (rlistOuter); 0: reach */
    int32_t fresh;          /**< 1 if no kernel has pruned the list since the search */
    int32_t non_local;      /**< 1 for a list of home with halo atoms */
    int32_t honour_exclusions; /**< 1: leave out what the force field excludes; 0: a model that
                                    replaces it wants these pairs */
    int32_t cluster_size;        /**< 0 for 8 */
    int32_t clusters_per_super;  /**< 0 for 8 */
    int32_t split;               /**< 0 for 2 */
    const struct ab_pairs *next; /**< CLUSTERS: another list of the same atoms (the non-local one),
                                      or NULL; its cell, stream and event are those of the first */
} ab_pairs;

/** One evaluation. */
typedef struct ab_step {
    uint32_t struct_size;
    int32_t n_inputs;
    ab_array positions;  /**< (n_atoms, 3) float32 or float64, any strides */
    double cell[9];      /**< of this step; it may differ from that of the list (barostats) */
    int32_t periodic[3];
    int32_t reserved;
    const ab_input *inputs; /**< n_inputs that change in every step; they replace those of ab_atoms */
    /* A model that computes on the host has neither stream nor events: 0 */
    uintptr_t stream;    /**< cudaStream_t to work on: 0 for none, 1 for the default stream */
    uintptr_t ready;     /**< cudaEvent_t after which positions may be read; 0: in stream order */
    uintptr_t done;      /**< cudaEvent_t that is recorded when the results are complete. With a
                              stream and without an event they are complete in stream order; with
                              neither when `compute` returns */
} ab_step;

/** Where results are added; what is absent is not computed. float32 or float64, any strides. */
typedef struct ab_buffers {
    uint32_t struct_size;
    int32_t reserved;
    ab_array forces;   /**< (n_atoms, 3) */
    ab_array energy;   /**< (1,) */
    ab_array virial;   /**< (3, 3) dE/d(strain) */
    ab_array energies; /**< (n_atoms,) */
    ab_array virials;  /**< (n_atoms, 3, 3) share of each atom, not symmetrised: half of r (x) dE/dr of
                            each of its pairs; see requirements.virials */
} ab_buffers;

/** A handle; not an address that could be read. */
typedef struct ab_provider ab_provider;

/** What a setup file says: for engines whose own input has no place for it. The file is text, with a
 *  keyword and its values in each line, and `#` before comments; paths in it are relative to its folder.
 *  - model FILE: the metatomic model;
 *  - which atoms the model sees: `atoms all` (the default), `atoms 1-10,15` (numbered from 1), or
 *    `group INDEX.ndx NAME`, a group of an index file of GROMACS;
 *  - which elements they are: `species Ar` for all of them, `species O H H ...` one for each of them,
 *    `structure FILE` (any file with elements that ASE reads, with all atoms of the engine), or
 *    `topology FILE` (what `gmx grompp -pp` writes, with atomic numbers of the atom types);
 *  - energies FILE: where the engine's plugin writes the energy of the model; `energies none`: nowhere;
 *  - every N: how often it does;
 *  - periodic on|off|xy...: the periodic directions, where the engine does not tell them. If it gives
 *    a box vector for one that is not, `unchecked` after it says that atoms are never moved across;
 *  - skin LENGTH UNIT: of the provider's search, such as `skin 1 angstrom`;
 *  - and the keywords of ab_options. */
typedef struct ab_setup {
    uint32_t struct_size;
    int32_t n_keywords;
    const char *model;
    const char *const *keywords; /**< as in ab_options */
    const char *energies;        /**< path; NULL for none */
    const int64_t *atoms;        /**< n_atoms indices into the engine's atoms, ascending */
    const int32_t *types;        /**< n_atoms atomic numbers */
    int64_t n_atoms;
    int64_t every;
    double skin;                 /**< nm */
    int32_t periodic[3];         /**< 1, 0, or -1 if the file does not say */
    int32_t unchecked;           /**< 1 if directions that are not periodic need no room in the box */
} ab_setup;

/** The functions. */
typedef struct ab_functions {
    uint32_t struct_size;
    uint32_t version; /**< ALCHEMI_BRIDGE_VERSION of the library */
    /** Load a model; takes seconds the first time in a process. *provider is NULL if it fails. */
    int32_t (*open)(const ab_options *options, ab_provider **provider);
    /** Fill `requirements`; the caller has set its struct_size. */
    int32_t (*requirements)(ab_provider *provider, ab_requirements *requirements);
    /** Take the atoms of this rank; call set_pairs afterwards. */
    int32_t (*set_atoms)(ab_provider *provider, const ab_atoms *atoms);
    /** Take a new pair list. It belongs to its cell and to the positions of the next compute; that of
     *  clusters to its own positions, from which those of the next compute may have moved already. */
    int32_t (*set_pairs)(ab_provider *provider, const ab_pairs *pairs);
    /** Evaluate and add to the buffers. */
    int32_t (*compute)(ab_provider *provider, const ab_step *step, const ab_buffers *out);
    /** Let go of a provider, and of what `requirements` pointed to; NULL is allowed. */
    void (*close)(ab_provider *provider);
    /** What the last call of this thread that failed had to say, UTF-8; valid until the next one
     *  that fails. */
    const char *(*message)(void);
    /** Read a setup file for an engine with `n_atoms` atoms. With `text` its contents are taken from
     *  there, and `path` only tells where other files lie. The caller has set struct_size; pointers
     *  stay valid until `release_setup`. */
    int32_t (*read_setup)(const char *path, const char *text, int64_t n_atoms, ab_setup *setup);
    /** Let go of what `setup` points to; NULL is allowed. */
    void (*release_setup)(ab_setup *setup);
    /** Wait for the results of all steps so far, and return the error that only the device has noticed
     *  in the last of them, if nobody was told yet: a step that is the last of a run, or whose energy
     *  is looked at before the next, has no next `compute` that would return it. On a host `compute`
     *  has said everything. A table whose struct_size ends before this field does not have it. */
    int32_t (*finish)(ab_provider *provider);
} ab_functions;

/** Get the functions: start Python if there is none in the process, and import the bridge.
 *
 *  `version` is the caller's ALCHEMI_BRIDGE_VERSION. Returns NULL, with the reason in `message` (of
 *  `size` bytes, may be NULL), if that does not work. Later calls return the same table at once; it
 *  lives as long as the process, and so does the interpreter. The library must not be closed. */
typedef const ab_functions *(*ab_get_functions)(uint32_t version, char *message, size_t size);

#ifdef __cplusplus
}
#endif
#endif

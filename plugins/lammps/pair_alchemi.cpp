/* Pair style alchemi: metatomic models in LAMMPS, through the C interface of alchemi_bridge.
 *
 * SPDX-License-Identifier: GPL-2.0-only
 *
 * This file derives from LAMMPS' class Pair (https://www.lammps.org), and is distributed under the
 * GNU General Public License, version 2; see COPYING in this folder.
 *
 * The style knows nothing of models. It hands x, f, type, tag and the neighbor list to the bridge where
 * they are, says of which atom each ghost is an image, and adds energy and virial where LAMMPS keeps
 * them. What fails on one rank ends all of them, with its message, through Error::all.
 */
#include "pair_alchemi.h"
#include "pair_alchemi_internal.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

using namespace LAMMPS_NS;
using namespace LAMMPS_NS::alchemi;

namespace {

// Lists and ghosts of several ranks reach farther by this fraction. The bridge refuses a list when the
// box has shrunk so far, or an atom moved against it, that a pair may be missing; LAMMPS measures that
// otherwise, and must not be refused where it sees no need for a new list.
constexpr double SHRINKING = 0.01;

// Places of xx, yy, zz, xy, xz, yz in a 3 x 3 tensor.
constexpr int ROW[6] = {0, 1, 2, 0, 0, 1}, COLUMN[6] = {0, 1, 2, 1, 2, 2};

struct UnitStyle {
  const char *name, *length, *energy;
};

constexpr UnitStyle UNITS[] = {
    {"metal", "angstrom", "eV"},
    {"real", "angstrom", "kcal/mol"},
    {"si", "m", "J"},
    {"electron", "bohr", "hartree"},
};

const UnitStyle *unit_style(const char *name)
{
  for (const auto &style : UNITS)
    if (strcmp(style.name, name) == 0) return &style;
  return nullptr;
}

}    // namespace

/* ---------------------------------------------------------------------- */

PairAlchemi::PairAlchemi(LAMMPS *lmp) :
    Pair(lmp), bridge(nullptr), provider(nullptr), needs(), n_builds(-1), first(true), n_atoms(0),
    has_subset(false), sends_virial(false), asks_virials(false)
{
  ++ghost_ranges()[lmp].styles;
  single_enable = 0;
  restartinfo = 1;
  one_coeff = 1;
  manybody_flag = 1;
  writedata = 0;
  // images are not evaluated, so that the sum of r * f over all atoms is not the virial
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_NOTAVAIL;
  comm_reverse_off = 9;    // forces, and virials of atoms, of ghosts with newton off
}

PairAlchemi::~PairAlchemi()
{
  close();
  GhostRange &ours = ghost_ranges()[lmp];
  if (--ours.styles == 0) {
    // LAMMPS takes its parts down in its own order: comm may be gone
    if (comm && ours.value > 0.0 && comm->cutghostuser == ours.value) comm->cutghostuser = 0.0;
    ghost_ranges().erase(lmp);
  }
  if (allocated && !copymode) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
    memory->destroy(cutghost);
  }
}

void PairAlchemi::close()
{
  if (provider) bridge->close(provider);
  provider = nullptr;
  needs = {};    // it points into what was closed
}

void PairAlchemi::require_provider()
{
  if (!provider)
    error->all(FLERR, "pair style alchemi: expected a model, got none, since the last pair_style "
                      "command failed; give a model that can be loaded");
}

/* ----------------------------------------------------------------------
   all ranks end if one has a problem: with the message of the first that has
------------------------------------------------------------------------- */

void PairAlchemi::agree(int32_t code, const char *own_message)
{
  // the lowest rank with an error, and whether there is a warning, in one reduction
  int mine[2] = {code == AB_OK ? comm->nprocs : comm->me, warnings.empty() ? 1 : 0};
  int all[2] = {mine[0], mine[1]};
  if (comm->nprocs > 1) MPI_Allreduce(mine, all, 2, MPI_INT, MPI_MIN, world);
  if (all[1] == 0) tell_warnings();
  const int failed = all[0];
  if (failed == comm->nprocs) return;
  char text[alchemi_bridge::MESSAGE_SIZE] = "";
  if (comm->me == failed) {
    std::string message = own_message ? own_message : bridge->message();
    if (code == AB_ERROR_STALE)
      message = message.substr(0, message.rfind(';')) +
          "; look for it in every step (neigh_modify every 1 delay 0 check yes), or take a larger skin "
          "(neighbor command)";
    else if (code == AB_ERROR_MODEL && asks_virials)
      message += " (virials of atoms are wanted by compute stress/atom, for example)";
    strncpy(text, message.c_str(), sizeof text - 1);
  }
  if (comm->nprocs > 1) {
    MPI_Bcast(text, sizeof text, MPI_CHAR, failed, world);
    error->all(FLERR, "pair style alchemi, rank {}: {}", failed, (const char *) text);
  }
  error->all(FLERR, "pair style alchemi: {}", (const char *) text);
}

// Only the first rank has a log: it prints what all of them have to say.
void PairAlchemi::tell_warnings()
{
  std::string mine;
  for (const auto &text : warnings) {
    if (comm->nprocs > 1) mine += "rank " + std::to_string(comm->me) + ": ";
    mine += text + '\n';
  }
  warnings.clear();
  const int size = static_cast<int>(mine.size());
  std::vector<int> sizes(comm->nprocs), starts(comm->nprocs, 0);
  MPI_Gather(&size, 1, MPI_INT, sizes.data(), 1, MPI_INT, 0, world);
  for (int k = 1; k < comm->nprocs; ++k) starts[k] = starts[k - 1] + sizes[k - 1];
  std::string all(starts.back() + sizes.back(), '\0');
  MPI_Gatherv(mine.data(), size, MPI_CHAR, &all[0], sizes.data(), starts.data(), MPI_CHAR, 0, world);
  if (comm->me != 0) return;
  for (size_t begin = 0, end; begin < all.size(); begin = end + 1) {
    end = all.find('\n', begin);
    error->warning(FLERR, "pair style alchemi: " + all.substr(begin, end - begin));
  }
}

void PairAlchemi::log(void *self, int32_t level, const char *text)
{
  auto style = static_cast<PairAlchemi *>(self);
  if (level == AB_LOG_WARNING) {
    std::string line = text;
    std::replace(line.begin(), line.end(), '\n', ' ');
    // every rank loads the model, and says the same of it
    if (style->comm->me == 0 || style->provider) style->warnings.push_back(line);
  } else if (style->comm->me == 0) {
    utils::logmesg(style->lmp, std::string(text) + "\n");
  }
}

/* ----------------------------------------------------------------------
   pair_style alchemi MODEL [keyword value ...]
------------------------------------------------------------------------- */

void PairAlchemi::settings(int narg, char **arg)
{
  if (narg < 1)
    error->all(FLERR, "pair_style alchemi: expected the path of a metatomic model, got nothing");
  if (narg % 2 == 0)
    error->all(FLERR, "pair_style alchemi: expected a value after each keyword, got none after {}",
               (const char *) arg[narg - 1]);
  arguments.assign(arg, arg + narg);
  open();
}

void PairAlchemi::open()
{
  close();
  const UnitStyle *units = unit_style(update->unit_style);
  if (!units)
    error->all(FLERR,
               "pair_style alchemi: expected units metal, real, si or electron, got units {}; choose "
               "one of these",
               (const char *) update->unit_style);
  std::string problem;
  if (!bridge) bridge = alchemi_bridge::load(alchemi_bridge::library_or(AB_LIBRARY), problem);
  agree(bridge ? AB_OK : AB_ERROR_INTERNAL, problem.c_str());

  // ranks of a node share its GPUs
  MPI_Comm node;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, comm->me, MPI_INFO_NULL, &node);
  int local_rank = 0, local_size = 1;
  MPI_Comm_rank(node, &local_rank);
  MPI_Comm_size(node, &local_size);
  MPI_Comm_free(&node);

  std::vector<const char *> words;
  for (size_t k = 1; k < arguments.size(); ++k) words.push_back(arguments[k].c_str());
  ab_options options = {};
  options.struct_size = sizeof options;
  options.version = ALCHEMI_BRIDGE_VERSION;
  options.model = arguments[0].c_str();
  options.length_unit = units->length;
  options.energy_unit = units->energy;
  options.keywords = words.data();
  options.n_keywords = static_cast<int32_t>(words.size() / 2);
  options.local_rank = local_rank;
  options.local_size = local_size;
  options.log = log;
  options.log_user = this;
  agree(bridge->open(&options, &provider), nullptr);

  needs = {};
  needs.struct_size = sizeof needs;
  agree(bridge->requirements(provider, &needs), nullptr);
  if (needs.n_inputs > 0)
    error->all(FLERR,
               "pair_style alchemi: expected a model that needs atoms and cell only, got one that "
               "asks for {}, too, which this pair style does not hand over",
               (const char *) needs.inputs[0]);
  if (comm->me == 0) utils::logmesg(lmp, std::string(needs.description) + "\n");
  ghostneigh = needs_ghost_rows() ? 1 : 0;
}

/* ----------------------------------------------------------------------
   pair_coeff * * Z1 Z2 ...: the atomic number of each atom type, NULL for what the model does not see
------------------------------------------------------------------------- */

void PairAlchemi::coeff(int narg, char **arg)
{
  require_provider();
  if (!allocated) allocate();
  const int n_types = atom->ntypes;
  if (narg != 2 + n_types || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR,
               "pair_coeff for pair style alchemi: expected * * and an atomic number for each of {} "
               "atom types (or NULL, in hybrid styles), got {} arguments",
               n_types, narg);
  species.assign(arg + 2, arg + narg);
  number_of_type.assign(n_types + 1, 0);
  for (int type = 1; type <= n_types; ++type) {
    const std::string &word = species[type - 1];
    if (word == "NULL") continue;
    char *end = nullptr;
    const long number = strtol(word.c_str(), &end, 10);
    const bool known = *end == '\0' && number > 0 &&
        std::find(needs.types, needs.types + needs.n_types, number) != needs.types + needs.n_types;
    if (!known) {
      std::string known_types;
      for (int k = 0; k < needs.n_types; ++k)
        known_types += (k ? " " : "") + std::to_string(needs.types[k]);
      error->all(FLERR,
                 "pair_coeff for pair style alchemi: expected an atomic number that the model knows "
                 "({}), or NULL, got {} for type {}; numbers, not symbols",
                 known_types, word, type);
    }
    number_of_type[type] = static_cast<int32_t>(number);
  }
  int count = 0;
  for (int i = 1; i <= n_types; ++i)
    for (int j = i; j <= n_types; ++j) {
      setflag[i][j] = number_of_type[i] && number_of_type[j];
      count += setflag[i][j];
    }
  if (count == 0)
    error->all(FLERR, "pair_coeff for pair style alchemi: expected at least one atomic number, got "
                      "NULL for all types");
}

void PairAlchemi::allocate()
{
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  memory->create(cutghost, n, n, "pair:cutghost");
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      setflag[i][j] = 0;
      cutsq[i][j] = cutghost[i][j] = 0.0;
    }
  allocated = 1;
}

/* ----------------------------------------------------------------------
   before a run
------------------------------------------------------------------------- */

// With several ranks and messages, the energy of a home atom depends on the pairs of ghosts.
bool PairAlchemi::needs_ghost_rows() const
{
  return comm->nprocs > 1 && needs.halo_range > needs.pair_range * (1.0 + NEVER_THERE);
}

double PairAlchemi::slack() const
{
  return comm->nprocs > 1 ? SHRINKING * (needs.halo_range + neighbor->skin) : 0.0;
}

double PairAlchemi::ghost_range() const
{
  return needs.halo_range + neighbor->skin + slack();
}

void PairAlchemi::init_style()
{
  require_provider();
  if (!atom->tag_enable)
    error->all(FLERR, "pair style alchemi: expected atoms with IDs, got none; use atom_modify id yes");
  if (comm->nprocs > 1 && !std::isfinite(needs.halo_range))
    error->all(FLERR,
               "pair style alchemi: expected a model with a finite interaction range on {} ranks, got "
               "a long-range one; run on one rank",
               comm->nprocs);
  if (comm->nprocs > 1 && needs.direct_stress)
    error->all(FLERR,
               "pair style alchemi: expected a stress that is derived from the energy on {} ranks, got a "
               "predicted one, of which nobody knows a rank's part; use non_conservative forces, or "
               "one rank",
               comm->nprocs);
  require_ghosts();
  neighbor->add_request(this, NeighConst::REQ_FULL |
                                  (needs_ghost_rows() ? NeighConst::REQ_GHOST : 0));
  first = true;
}

double PairAlchemi::init_one(int i, int j)
{
  cutghost[i][j] = cutghost[j][i] = needs.pair_range + slack();
  return needs.pair_range + slack();
}

/* ---------------------------------------------------------------------- */

void PairAlchemi::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  if (first || neighbor->ago == 0 || neighbor->ncalls != n_builds) {
    remember_places();
    hand_over_pairs(0.0);
  } else if (types_changed()) {
    hand_over_pairs(moved_since_build());
  }

  const int n_local = atom->nlocal, n_all = n_local + atom->nghost;
  // with newton off nobody sends forces on ghosts home but us, and nobody has set them to zero
  const bool by_hand = comm->nprocs > 1 && !force->newton_pair;
  const bool buffered = by_hand || (comm->nprocs > 1 && needs.direct_forces);
  double energy = 0.0, stress[9] = {};
  static double nowhere[3] = {0.0, 0.0, 0.0};

  ab_step step = {};
  step.struct_size = sizeof step;
  step.positions = describe(n_atoms ? atom->x[0] : nowhere, AB_FLOAT64, {n_atoms, 3});
  fill_cell(step.cell, step.periodic);

  ab_buffers out = {};
  out.struct_size = sizeof out;
  if (buffered) {
    force_buffer.assign(3 * static_cast<size_t>(std::max(n_all, 1)), 0.0);
    out.forces = describe(force_buffer.data(), AB_FLOAT64, {n_atoms, 3});
  } else {
    out.forces = describe(n_atoms ? atom->f[0] : nowhere, AB_FLOAT64, {n_atoms, 3});
  }
  if (eflag_global) out.energy = describe(&energy, AB_FLOAT64, {1});
  if (vflag_global) out.virial = describe(stress, AB_FLOAT64, {3, 3});
  if (eflag_atom) out.energies = describe(n_atoms ? eatom : nowhere, AB_FLOAT64, {n_atoms});
  if (vflag_atom) {
    virial_buffer.assign(9 * static_cast<size_t>(std::max(n_all, 1)), 0.0);
    out.virials = describe(virial_buffer.data(), AB_FLOAT64, {n_atoms, 3, 3});
  }
  asks_virials = vflag_atom != 0;
  agree(bridge->compute(provider, &step, &out), nullptr);
  asks_virials = false;

  if (by_hand) {
    sends_virial = vflag_atom != 0;
    comm->reverse_comm(this, sends_virial ? 9 : 3);
  }
  if (buffered) {
    if (needs.direct_forces) take_out_net_force();
    add_forces(by_hand ? n_local : n_atoms);
  }
  if (eflag_global) eng_vdwl += energy;
  // LAMMPS' virial is the sum of r * f, minus the derivative with respect to the strain
  for (int k = 0; vflag_global && k < 6; ++k) virial[k] -= stress[3 * ROW[k] + COLUMN[k]];
  if (vflag_atom) {
    // with newton on, who asked for it sends the rows of ghosts home
    const int n = by_hand ? n_local : n_atoms;
    for (int i = 0; i < n; ++i)
      for (int k = 0; k < 6; ++k) {
        const double *w = &virial_buffer[9 * static_cast<size_t>(i)];
        vatom[i][k] -= 0.5 * (w[3 * ROW[k] + COLUMN[k]] + w[3 * COLUMN[k] + ROW[k]]);
      }
  }
}

void PairAlchemi::add_forces(int n)
{
  double *f = n ? atom->f[0] : nullptr;
  for (int k = 0; k < 3 * n; ++k) f[k] += force_buffer[k];
}

// Predicted forces need not sum to zero; what is left over would push the whole system. One rank alone
// leaves that to the bridge.
void PairAlchemi::take_out_net_force()
{
  double mine[4] = {0.0, 0.0, 0.0, static_cast<double>(selected.size())}, sums[4];
  for (const int i : selected)
    for (int d = 0; d < 3; ++d) mine[d] += force_buffer[3 * static_cast<size_t>(i) + d];
  MPI_Allreduce(mine, sums, 4, MPI_DOUBLE, MPI_SUM, world);
  for (const int i : selected)
    for (int d = 0; d < 3; ++d) force_buffer[3 * static_cast<size_t>(i) + d] -= sums[d] / sums[3];
}

int PairAlchemi::pack_reverse_comm(int n, int begin, double *buffer)
{
  int m = 0;
  for (int i = begin; i < begin + n; ++i) {
    for (int d = 0; d < 3; ++d) buffer[m++] = force_buffer[3 * static_cast<size_t>(i) + d];
    if (!sends_virial) continue;
    const double *w = &virial_buffer[9 * static_cast<size_t>(i)];
    for (int k = 0; k < 6; ++k)
      buffer[m++] = 0.5 * (w[3 * ROW[k] + COLUMN[k]] + w[3 * COLUMN[k] + ROW[k]]);
  }
  return m;
}

void PairAlchemi::unpack_reverse_comm(int n, int *where, double *buffer)
{
  int m = 0;
  for (int k = 0; k < n; ++k) {
    const size_t i = where[k];
    for (int d = 0; d < 3; ++d) force_buffer[3 * i + d] += buffer[m++];
    if (!sends_virial) continue;
    double *w = &virial_buffer[9 * i];
    for (int c = 0; c < 6; ++c) {
      const double value = buffer[m++];
      w[3 * ROW[c] + COLUMN[c]] += value;
      if (ROW[c] != COLUMN[c]) w[3 * COLUMN[c] + ROW[c]] += value;
    }
  }
}

/* ---------------------------------------------------------------------- */

double PairAlchemi::memory_usage()
{
  double bytes = Pair::memory_usage();
  for (const auto *held : {&numbers, &owners, &rows, &subset, &selected})
    bytes += static_cast<double>(held->capacity() * sizeof(int32_t));
  for (const auto *held : {&margin, &force_buffer, &virial_buffer})
    bytes += static_cast<double>(held->capacity() * sizeof(double));
  return bytes;
}

void *PairAlchemi::extract(const char *what, int &dimension)
{
  dimension = 0;
  if (strcmp(what, "pair_range") == 0) return &needs.pair_range;
  if (strcmp(what, "halo_range") == 0) return &needs.halo_range;
  return nullptr;
}

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

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <unordered_map>
#include <unordered_set>

using namespace LAMMPS_NS;

namespace {

// An atom whose energy does not count never takes the place of one whose energy does, however near.
constexpr double NEVER_THERE = 1.0e-6;

// Lists and ghosts of several ranks reach farther by this fraction. The bridge refuses a list when the
// box has shrunk so far, or an atom moved against it, that a pair may be missing; LAMMPS measures that
// otherwise, and must not be refused where it sees no need for a new list.
constexpr double SHRINKING = 0.01;

constexpr int MESSAGE_SIZE = 4096;

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

ab_array array_of(const void *data, ab_dtype dtype, std::initializer_list<int64_t> extents)
{
  ab_array array = {};
  array.data = const_cast<void *>(data);
  array.dtype = dtype;
  array.ndim = static_cast<int32_t>(extents.size());
  std::copy(extents.begin(), extents.end(), array.extent);
  int64_t stride = 1;
  for (int axis = array.ndim - 1; axis >= 0; --axis) {
    array.stride[axis] = stride;
    stride *= array.extent[axis];
  }
  return array;
}

ab_array array_of(const std::vector<int32_t> &values)
{
  static int32_t nothing = 0;    // an empty array has an address, too: it is given
  return array_of(values.empty() ? &nothing : values.data(), AB_INT32,
                  {static_cast<int64_t>(values.size())});
}

// The ghost cutoff that these styles have set, of each LAMMPS of this process, and how many there are.
struct GhostRange {
  double value = 0.0;
  int styles = 0;
};

std::map<const LAMMPS *, GhostRange> &ghost_ranges()
{
  static std::map<const LAMMPS *, GhostRange> ranges;
  return ranges;
}

// The library with the function table: named by whoever started this process, or known from the build.
const ab_functions *load_bridge(std::string &problem)
{
  const char *path = getenv("ALCHEMI_BRIDGE_LIBRARY");
  if (!path || !*path) path = AB_LIBRARY;
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    problem = dlerror();
    return nullptr;
  }
  auto get = reinterpret_cast<ab_get_functions>(dlsym(library, ALCHEMI_BRIDGE_SYMBOL));
  if (!get) {
    problem = std::string(path) + " has no " + ALCHEMI_BRIDGE_SYMBOL;
    return nullptr;
  }
  char message[MESSAGE_SIZE] = "";
  const ab_functions *functions = get(ALCHEMI_BRIDGE_VERSION, message, sizeof message);
  problem = message;
  return functions;
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
  char text[MESSAGE_SIZE] = "";
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
  if (!bridge) bridge = load_bridge(problem);
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

// The model needs all pairs of its atoms: also those that users tell LAMMPS to leave out of its lists,
// and those of bonded atoms, which are left out where both factors are zero.
void PairAlchemi::require_lists_without_holes()
{
  int mine[2] = {excludes_pairs() ? 1 : 0, leaves_out_bonds() ? 1 : 0}, any[2];
  MPI_Allreduce(mine, any, 2, MPI_INT, MPI_MAX, world);
  if (any[0])
    error->all(FLERR, "pair style alchemi: expected neighbor lists with all pairs of the model's "
                      "atoms, got exclusions among them (neigh_modify exclude, or a fix that makes "
                      "one); exclude pairs with other atoms only");
  if (any[1])
    error->all(FLERR, "pair style alchemi: expected neighbor lists with all pairs of the model's "
                      "atoms, got special_bonds that leave out bonded ones; use special_bonds with "
                      "1.0, or with a factor such as 1.0e-50 where others need them off");
}

bool PairAlchemi::excludes_pairs() const
{
  if (!neighbor->exclude_setting()) return false;
  for (int k = 0; k < neighbor->nex_type; ++k)
    if (number_of_type[neighbor->ex1_type[k]] && number_of_type[neighbor->ex2_type[k]]) return true;
  auto has = [this](int bit) {
    for (int i = 0; i < atom->nlocal + atom->nghost; ++i)
      if (number_of_type[atom->type[i]] && (atom->mask[i] & bit)) return true;
    return false;
  };
  for (int k = 0; k < neighbor->nex_group; ++k)
    if (has(neighbor->ex1_bit[k]) && has(neighbor->ex2_bit[k])) return true;
  for (int k = 0; k < neighbor->nex_mol; ++k)
    if (has(neighbor->ex_mol_bit[k])) return true;
  return false;
}

bool PairAlchemi::leaves_out_bonds() const
{
  bool left_out = false;
  for (int k = 1; k <= 3; ++k) left_out = left_out || neighbor->special_flag[k] == 0;
  if (!left_out || atom->molecular == Atom::ATOMIC) return false;
  std::unordered_set<tagint> seen;
  for (int i = 0; i < atom->nlocal + atom->nghost; ++i)
    if (number_of_type[atom->type[i]]) seen.insert(atom->tag[i]);
  for (int i = 0; i < atom->nlocal; ++i) {
    if (!number_of_type[atom->type[i]]) continue;
    if (atom->molecular == Atom::TEMPLATE) {
      if (atom->molindex[i] >= 0) return true;    // bonds are those of the template
      continue;
    }
    int from = 0;
    for (int k = 1; k <= 3; ++k) {
      const int to = atom->nspecial[i][k - 1];
      if (neighbor->special_flag[k] == 0)
        for (int m = from; m < to; ++m)
          if (seen.count(atom->special[i][m])) return true;
      from = to;
    }
  }
  return false;
}

// With messages, ghosts must be there as far as the model reaches from any home atom, and the skin
// beyond. Without, those that the neighbor list needs are enough, and LAMMPS sees to them.
void PairAlchemi::require_ghosts()
{
  if (!needs_ghost_rows()) return;
  if (comm->mode != Comm::SINGLE)
    error->all(FLERR, "pair style alchemi: expected comm_modify mode single on several ranks, got "
                      "another mode; a model needs all atoms within one range");
  if (neighbor->style != Neighbor::BIN && neighbor->style != Neighbor::NSQ)
    error->all(FLERR, "pair style alchemi: expected neighbor style bin or nsq for a model with messages "
                      "on several ranks, got another one, which LAMMPS has not with ghosts; use "
                      "neighbor ... bin");
  GhostRange &ours = ghost_ranges()[lmp];
  const bool by_user = comm->cutghostuser > 0.0 && comm->cutghostuser != ours.value;
  if (by_user && comm->cutghostuser < ghost_range())
    error->all(FLERR,
               "pair style alchemi: expected ghost atoms as far as {:.6g} (interaction range {:.6g}, skin "
               "{:.6g} and {:.3g} for a shrinking box), got comm_modify cutoff {:.6g}; raise it, or leave "
               "it out",
               ghost_range(), needs.halo_range, neighbor->skin, slack(), comm->cutghostuser);
  // several of these styles share one setting
  if (!by_user) comm->cutghostuser = ours.value = std::max(ours.value, ghost_range());
}

/* ----------------------------------------------------------------------
   after a neighbor list was built
------------------------------------------------------------------------- */

void PairAlchemi::fill_cell(double *cell, int32_t *periodic) const
{
  const double *h = domain->h;
  const double rows[9] = {h[0], 0.0, 0.0, h[5], h[1], 0.0, h[4], h[3], h[2]};
  for (int d = 0; d < 3; ++d) {
    // in two dimensions LAMMPS calls z periodic, and makes no images there
    periodic[d] = domain->periodicity[d] && !(d == 2 && domain->dimension == 2);
    for (int m = 0; m < 3; ++m) cell[3 * d + m] = periodic[d] ? rows[3 * d + m] : 0.0;
  }
}

// Owner of every atom: local atoms are their own; ghosts are images of the local atom with their ID, or
// of the one ghost that stands for an atom of another rank. That is the image nearest to the middle of
// the sub-domain in lamda coordinates, in which it is a box: its surroundings are all here if those of
// any image are.
void PairAlchemi::find_owners()
{
  const int n_local = atom->nlocal, n_all = n_local + atom->nghost;
  const tagint *tag = atom->tag;
  owners.resize(n_all);
  std::unordered_map<tagint, int> owner_of;
  owner_of.reserve(n_all);
  for (int i = 0; i < n_local; ++i) {
    owners[i] = i;
    owner_of.emplace(tag[i], i);
  }
  if (comm->nprocs > 1) {
    const double *low = domain->triclinic ? domain->sublo_lamda : domain->sublo;
    const double *high = domain->triclinic ? domain->subhi_lamda : domain->subhi;
    const double prd[3] = {domain->prd[0], domain->prd[1], domain->prd[2]};
    std::unordered_map<tagint, double> nearest;
    for (int i = n_local; i < n_all; ++i) {
      const auto known = owner_of.find(tag[i]);
      if (known != owner_of.end() && known->second < n_local) continue;
      double place[3] = {atom->x[i][0], atom->x[i][1], atom->x[i][2]};
      if (domain->triclinic) domain->x2lamda(atom->x[i], place);
      double distance = 0.0;
      for (int d = 0; d < 3; ++d) {
        double offset = place[d] - 0.5 * (low[d] + high[d]);
        if (!domain->triclinic) offset /= prd[d];
        distance += offset * offset;
      }
      const auto found = nearest.find(tag[i]);
      if (found == nearest.end() || distance < found->second) {
        nearest[tag[i]] = distance;
        owner_of[tag[i]] = i;
      }
    }
  }
  bool lost = false;
  for (int i = n_local; i < n_all; ++i) {
    const auto found = owner_of.find(tag[i]);
    lost = lost || found == owner_of.end();
    owners[i] = found == owner_of.end() ? i : found->second;
  }
  agree(lost ? AB_ERROR_PAIRS : AB_OK,
        "expected a local atom for every ghost, since there is one rank, got none; atoms were lost");
}

// What the interaction range leaves beyond each ghost, which is at least as far from any home atom as
// from the sub-domain: rows of ghosts whose messages can not arrive are not evaluated.
void PairAlchemi::find_margins()
{
  const int n_local = atom->nlocal, n_all = n_local + atom->nghost;
  const double range = needs.halo_range, skin = neighbor->skin + slack();
  margin.assign(n_all, range + skin);
  const bool tilted = domain->triclinic;
  const double *low = tilted ? domain->sublo_lamda : domain->sublo;
  const double *high = tilted ? domain->subhi_lamda : domain->subhi;
  double height[3] = {1.0, 1.0, 1.0};
  if (tilted) {
    const double *g = domain->h_inv;
    height[0] = 1.0 / sqrt(g[0] * g[0] + g[5] * g[5] + g[4] * g[4]);
    height[1] = 1.0 / sqrt(g[1] * g[1] + g[3] * g[3]);
    height[2] = 1.0 / g[2];
  }
  for (int i = n_local; i < n_all; ++i) {
    double place[3] = {atom->x[i][0], atom->x[i][1], atom->x[i][2]};
    if (tilted) domain->x2lamda(atom->x[i], place);
    double sum = 0.0, largest = 0.0;
    for (int d = 0; d < 3; ++d) {
      const double gap = height[d] * std::max({low[d] - place[d], place[d] - high[d], 0.0});
      sum += gap * gap;
      largest = std::max(largest, gap);
    }
    const double distance = tilted ? largest : sqrt(sum);
    margin[i] = range - std::max(distance - skin, NEVER_THERE * range);
  }
}

// Rows that the bridge is told of: all of local atoms, and of ghosts those that may have to be evaluated.
void PairAlchemi::collect_rows()
{
  rows.assign(list->ilist, list->ilist + list->inum);
  if (!list->ghost) return;
  for (int k = list->inum; k < list->inum + list->gnum; ++k) {
    const int i = list->ilist[k];
    // which of the model's lists they belong to is for the bridge to say: cutoffs may differ
    if (owners[i] == i && margin[i] > 0.0) rows.push_back(i);
  }
}

// Where local atoms and the box are when a list is built.
void PairAlchemi::remember_places()
{
  const double *x = atom->nlocal ? atom->x[0] : nullptr;
  built_x.assign(x, x + 3 * static_cast<size_t>(atom->nlocal));
  std::copy(domain->h, domain->h + 6, built_h);
  std::copy(domain->boxlo, domain->boxlo + 3, built_low);
}

// By how much two atoms, or their images, can have come nearer to each other since.
double PairAlchemi::moved_since_build() const
{
  double farthest = 0.0, all;
  for (size_t i = 0; i < built_x.size() / 3; ++i) {
    double sum = 0.0;
    for (int d = 0; d < 3; ++d) sum += pow(atom->x[i][d] - built_x[3 * i + d], 2);
    farthest = std::max(farthest, sum);
  }
  MPI_Allreduce(&farthest, &all, 1, MPI_DOUBLE, MPI_MAX, world);
  // corners of the box: what its images move by is the difference of two of them
  double corner = 0.0, dh[6], low[3];
  for (int k = 0; k < 6; ++k) dh[k] = domain->h[k] - built_h[k];
  for (int d = 0; d < 3; ++d) low[d] = domain->boxlo[d] - built_low[d];
  for (int c = 0; c < 8; ++c) {
    const double a = c & 1, b = c >> 1 & 1, e = c >> 2;
    const double x = low[0] + a * dh[0] + b * dh[5] + e * dh[4];
    const double y = low[1] + b * dh[1] + e * dh[3], z = low[2] + e * dh[2];
    corner = std::max(corner, sqrt(x * x + y * y + z * z));
  }
  return 2.0 * (sqrt(all) + corner);
}

// Some fixes change types between two builds.
bool PairAlchemi::types_changed() const
{
  int mine = 0, any = 0;
  for (int i = 0; i < n_atoms; ++i) mine |= numbers[i] != number_of_type[atom->type[i]];
  if (comm->nprocs == 1) return mine != 0;
  MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, world);
  return any != 0;
}

// `moved` is what a list that is not new any more has lost of its reach.
void PairAlchemi::hand_over_pairs(double moved)
{
  const int n_local = atom->nlocal, n_all = n_local + atom->nghost;
  const bool alone = comm->nprocs == 1;
  if (first || neighbor->exclude_setting()) require_lists_without_holes();
  if (needs_ghost_rows() && comm->get_comm_cutoff() < ghost_range())
    error->all(FLERR,
               "pair style alchemi: expected ghost atoms as far as {:.6g} (interaction range {:.6g} and "
               "skin {:.6g}), got {:.6g}; use comm_modify cutoff",
               ghost_range(), needs.halo_range, neighbor->skin, comm->get_comm_cutoff());
  find_owners();
  n_atoms = alone ? n_local : n_all;

  numbers.resize(n_atoms);
  subset.clear();
  selected.clear();
  for (int i = 0; i < n_atoms; ++i) {
    numbers[i] = number_of_type[atom->type[i]];
    if (!numbers[i] || owners[i] != i) continue;
    subset.push_back(i);
    if (i < n_local) selected.push_back(i);
  }
  has_subset = static_cast<int>(subset.size()) != n_atoms;

  ab_atoms atoms = {};
  atoms.struct_size = sizeof atoms;
  atoms.types = array_of(numbers);
  if (has_subset) atoms.subset = array_of(subset);
  if (!alone) atoms.selected = array_of(selected);
  static const tagint no_tag = 0;
  atoms.ids = array_of(n_atoms ? atom->tag : &no_tag, sizeof(tagint) == 8 ? AB_INT64 : AB_INT32,
                       {n_atoms});
  agree(bridge->set_atoms(provider, &atoms), nullptr);

  static const double nowhere[3] = {0.0, 0.0, 0.0};
  ab_pairs pairs = {};
  pairs.struct_size = sizeof pairs;
  pairs.kind = AB_PAIRS_GHOSTS;
  fill_cell(pairs.cell, pairs.periodic);
  pairs.full = 1;
  pairs.reach = std::max(needs.pair_range, needs.pair_range + neighbor->skin + slack() - moved);
  pairs.n_local = n_local;
  pairs.index_mask = NEIGHMASK;
  pairs.owners = array_of(owners);
  pairs.positions = array_of(n_all ? atom->x[0] : nowhere, AB_FLOAT64, {n_all, 3});
  if (!alone) {
    find_margins();
    static const double no_margin = 0.0;
    pairs.margin = array_of(n_all ? margin.data() : &no_margin, AB_FLOAT64, {n_all});
  }
  collect_rows();
  pairs.rows = array_of(rows);
  const int n_counts = rows.empty() ? 0 : 1 + *std::max_element(rows.begin(), rows.end());
  static const int no_count = 0;
  static int *no_row[1] = {nullptr};
  pairs.counts = array_of(n_counts ? list->numneigh : &no_count, AB_INT32, {n_counts});
  pairs.row_pointers = n_counts ? list->firstneigh : no_row;
  agree(bridge->set_pairs(provider, &pairs), nullptr);
  first = false;
  n_builds = neighbor->ncalls;
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
  step.positions = array_of(n_atoms ? atom->x[0] : nowhere, AB_FLOAT64, {n_atoms, 3});
  fill_cell(step.cell, step.periodic);

  ab_buffers out = {};
  out.struct_size = sizeof out;
  if (buffered) {
    force_buffer.assign(3 * static_cast<size_t>(std::max(n_all, 1)), 0.0);
    out.forces = array_of(force_buffer.data(), AB_FLOAT64, {n_atoms, 3});
  } else {
    out.forces = array_of(n_atoms ? atom->f[0] : nowhere, AB_FLOAT64, {n_atoms, 3});
  }
  if (eflag_global) out.energy = array_of(&energy, AB_FLOAT64, {1});
  if (vflag_global) out.virial = array_of(stress, AB_FLOAT64, {3, 3});
  if (eflag_atom) out.energies = array_of(n_atoms ? eatom : nowhere, AB_FLOAT64, {n_atoms});
  if (vflag_atom) {
    virial_buffer.assign(9 * static_cast<size_t>(std::max(n_all, 1)), 0.0);
    out.virials = array_of(virial_buffer.data(), AB_FLOAT64, {n_atoms, 3, 3});
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

/* ----------------------------------------------------------------------
   restart files: the arguments of both commands
------------------------------------------------------------------------- */

void PairAlchemi::write_strings(FILE *fp, const std::vector<std::string> &words) const
{
  const int count = static_cast<int>(words.size());
  fwrite(&count, sizeof(int), 1, fp);
  for (const auto &word : words) {
    const int size = static_cast<int>(word.size());
    fwrite(&size, sizeof(int), 1, fp);
    fwrite(word.data(), 1, word.size(), fp);
  }
}

std::vector<std::string> PairAlchemi::read_strings(FILE *fp) const
{
  int count = 0;
  if (comm->me == 0) utils::sfread(FLERR, &count, sizeof(int), 1, fp, nullptr, error);
  MPI_Bcast(&count, 1, MPI_INT, 0, world);
  std::vector<std::string> words(count);
  for (auto &word : words) {
    int size = 0;
    if (comm->me == 0) utils::sfread(FLERR, &size, sizeof(int), 1, fp, nullptr, error);
    MPI_Bcast(&size, 1, MPI_INT, 0, world);
    word.resize(size);
    if (size == 0) continue;
    if (comm->me == 0) utils::sfread(FLERR, &word[0], 1, size, fp, nullptr, error);
    MPI_Bcast(&word[0], size, MPI_CHAR, 0, world);
  }
  return words;
}

void PairAlchemi::write_restart_settings(FILE *fp)
{
  write_strings(fp, arguments);
}

void PairAlchemi::read_restart_settings(FILE *fp)
{
  arguments = read_strings(fp);
  open();
}

void PairAlchemi::write_restart(FILE *fp)
{
  write_restart_settings(fp);
  write_strings(fp, species);
}

void PairAlchemi::read_restart(FILE *fp)
{
  read_restart_settings(fp);
  std::vector<std::string> words = {"*", "*"};
  for (const auto &word : read_strings(fp)) words.push_back(word);
  std::vector<char *> arg;
  for (auto &word : words) arg.push_back(&word[0]);
  coeff(static_cast<int>(arg.size()), arg.data());
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

/* Pair style alchemi: neighbor lists and ghosts, on their way to the bridge.
 *
 * SPDX-License-Identifier: GPL-2.0-only
 *
 * Part of the pair style, see pair_alchemi.cpp.
 */
#include "pair_alchemi.h"
#include "pair_alchemi_internal.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "neigh_list.h"
#include "neighbor.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <unordered_set>

using namespace LAMMPS_NS;
using namespace LAMMPS_NS::alchemi;

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

// Bounds of the sub-domain in the coordinates in which it is a box: lamda coordinates if it is tilted.
std::pair<const double *, const double *> PairAlchemi::sub_domain() const
{
  if (domain->triclinic) return {domain->sublo_lamda, domain->subhi_lamda};
  return {domain->sublo, domain->subhi};
}

// An atom in these coordinates.
void PairAlchemi::find_place(int i, double *place) const
{
  if (domain->triclinic)
    domain->x2lamda(atom->x[i], place);
  else
    std::copy(atom->x[i], atom->x[i] + 3, place);
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
    const auto bounds = sub_domain();
    std::unordered_map<tagint, double> nearest;
    for (int i = n_local; i < n_all; ++i) {
      const auto known = owner_of.find(tag[i]);
      if (known != owner_of.end() && known->second < n_local) continue;
      double place[3], distance = 0.0;
      find_place(i, place);
      for (int d = 0; d < 3; ++d) {
        double offset = place[d] - 0.5 * (bounds.first[d] + bounds.second[d]);
        if (!domain->triclinic) offset /= domain->prd[d];
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
  const auto bounds = sub_domain();
  const double *low = bounds.first, *high = bounds.second;
  double height[3] = {1.0, 1.0, 1.0};
  if (tilted) {
    const double *g = domain->h_inv;
    height[0] = 1.0 / sqrt(g[0] * g[0] + g[5] * g[5] + g[4] * g[4]);
    height[1] = 1.0 / sqrt(g[1] * g[1] + g[3] * g[3]);
    height[2] = 1.0 / g[2];
  }
  for (int i = n_local; i < n_all; ++i) {
    double place[3], sum = 0.0, largest = 0.0;
    find_place(i, place);
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
  atoms.types = describe(numbers);
  if (has_subset) atoms.subset = describe(subset);
  if (!alone) atoms.selected = describe(selected);
  static const tagint no_tag = 0;
  atoms.ids = describe(n_atoms ? atom->tag : &no_tag, sizeof(tagint) == 8 ? AB_INT64 : AB_INT32,
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
  pairs.owners = describe(owners);
  pairs.positions = describe(n_all ? atom->x[0] : nowhere, AB_FLOAT64, {n_all, 3});
  if (!alone) {
    find_margins();
    static const double no_margin = 0.0;
    pairs.margin = describe(n_all ? margin.data() : &no_margin, AB_FLOAT64, {n_all});
  }
  collect_rows();
  pairs.rows = describe(rows);
  const int n_counts = rows.empty() ? 0 : 1 + *std::max_element(rows.begin(), rows.end());
  static const int no_count = 0;
  static int *no_row[1] = {nullptr};
  pairs.counts = describe(n_counts ? list->numneigh : &no_count, AB_INT32, {n_counts});
  pairs.row_pointers = n_counts ? list->firstneigh : no_row;
  agree(bridge->set_pairs(provider, &pairs), nullptr);
  first = false;
  n_builds = neighbor->ncalls;
}

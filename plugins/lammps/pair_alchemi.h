/* Pair style alchemi: metatomic models in LAMMPS, through the C interface of alchemi_bridge.
 *
 * SPDX-License-Identifier: GPL-2.0-only
 *
 * This file derives from LAMMPS' class Pair (https://www.lammps.org), and is distributed under the
 * GNU General Public License, version 2; see COPYING in this folder. The rest of alchemi_bridge, from
 * which this is separated by a C interface, is under the BSD 3-clause license.
 */
#ifndef LMP_PAIR_ALCHEMI_H
#define LMP_PAIR_ALCHEMI_H

#include "pair.h"

#include "alchemi_bridge.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace LAMMPS_NS {

class PairAlchemi : public Pair {
 public:
  PairAlchemi(class LAMMPS *);
  ~PairAlchemi() override;

  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void compute(int, int) override;

  void write_restart(FILE *) override;
  void read_restart(FILE *) override;
  void write_restart_settings(FILE *) override;
  void read_restart_settings(FILE *) override;

  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;

  double memory_usage() override;
  void *extract(const char *, int &) override;

 private:
  const ab_functions *bridge;
  ab_provider *provider;
  ab_requirements needs;

  std::vector<std::string> arguments;        // of pair_style
  std::vector<std::string> species;          // of pair_coeff
  std::vector<int32_t> number_of_type;       // atomic numbers, 0 for types that the model does not see

  // what was made of the last neighbor list
  bigint n_builds;
  bool first;
  int n_atoms;                               // local atoms, and on several ranks ghosts
  std::vector<int32_t> numbers, owners, rows, subset, selected;
  std::vector<double> margin;
  bool has_subset;
  std::vector<double> built_x;               // local atoms and box when the list was built
  double built_h[6], built_low[3];

  std::vector<double> force_buffer, virial_buffer;
  bool sends_virial, asks_virials;
  std::vector<std::string> warnings;         // of this rank, until all ranks have met

  void open();
  void close();
  void allocate();
  void agree(int32_t, const char *);
  void tell_warnings();
  void take_out_net_force();
  void add_forces(int);
  bool needs_ghost_rows() const;
  double slack() const;
  double ghost_range() const;
  void require_provider();
  void require_lists_without_holes();
  bool excludes_pairs() const;
  bool leaves_out_bonds() const;
  void require_ghosts();
  void remember_places();
  double moved_since_build() const;
  bool types_changed() const;
  void hand_over_pairs(double);
  std::pair<const double *, const double *> sub_domain() const;
  void find_place(int, double *) const;
  void find_owners();
  void find_margins();
  void collect_rows();
  void fill_cell(double *, int32_t *) const;
  void write_strings(FILE *, const std::vector<std::string> &) const;
  std::vector<std::string> read_strings(FILE *) const;
  static void log(void *, int32_t, const char *);
};

}    // namespace LAMMPS_NS

#endif

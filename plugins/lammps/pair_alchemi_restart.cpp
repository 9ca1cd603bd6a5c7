/* Pair style alchemi: restart files.
 *
 * SPDX-License-Identifier: GPL-2.0-only
 *
 * Part of the pair style, see pair_alchemi.cpp.
 */
#include "pair_alchemi.h"

#include "comm.h"
#include "error.h"
#include "utils.h"

using namespace LAMMPS_NS;

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

/* What LAMMPS' plugin command looks for in the library of pair style alchemi.
 *
 * SPDX-License-Identifier: GPL-2.0-only
 *
 * Part of the pair style, see pair_alchemi.cpp. AB_LAMMPS_VERSION is the date of the LAMMPS whose
 * headers this was compiled with.
 */
#include "pair_alchemi.h"

using namespace LAMMPS_NS;

extern "C" {

/* As in lammpsplugin.h of LAMMPS, which its Python package does not contain. */
typedef void *(lammpsplugin_factory1)(void *);
typedef void *(lammpsplugin_factory2)(void *, int, char **);

typedef struct {
  const char *version;
  const char *style;
  const char *name;
  const char *info;
  const char *author;
  union {
    lammpsplugin_factory1 *v1;
    lammpsplugin_factory2 *v2;
  } creator;
  void *handle;
} lammpsplugin_t;

typedef void (*lammpsplugin_regfunc)(lammpsplugin_t *, void *);

static void *create(void *lmp)
{
  return new PairAlchemi(static_cast<LAMMPS *>(lmp));
}

__attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
  lammpsplugin_t plugin = {};
  plugin.version = AB_LAMMPS_VERSION;
  plugin.style = "pair";
  plugin.name = "alchemi";
  plugin.info = "metatomic models through alchemi_bridge";
  plugin.author = "alchemi_bridge developers";
  plugin.creator.v1 = &create;
  plugin.handle = handle;
  reinterpret_cast<lammpsplugin_regfunc>(regfunc)(&plugin, lmp);
}
}

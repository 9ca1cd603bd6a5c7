"""``alchemi-bridge plugin``: builds what an engine loads, and prints where it is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from alchemi_bridge.cli.console import print_json
from alchemi_bridge.cli.options import add_command, json_option

ENGINES = ("c", "lammps", "plumed", "gromacs")

_EPILOG = """\
c        the C interface: the library whose function alchemi_bridge_functions gives an engine the
         table of alchemi_bridge.h (--include prints the folder of that header)
lammps   pair style alchemi for the LAMMPS of this environment. LAMMPS loads it by itself when it
         is started by this environment's lmp; for others:
         plugin load "$(alchemi-bridge plugin lammps)"
plumed   the library for engines that speak PLUMED's interface, such as GROMACS (2025 and later):
         PLUMED_KERNEL=$(alchemi-bridge plugin plumed) gmx mdrun -plumed bridge.dat
gromacs  for who changes GROMACS' own sources: prints the folder of IGpuForceProvider and of its
         implementation, and builds nothing. A GROMACS as it is takes plumed

Libraries are compiled on first use, and kept in the cache ($ALCHEMI_BRIDGE_CACHE).
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "plugin",
        description="Build the library that an engine loads, and print its path.",
        parents=[json_option()],
        epilog=_EPILOG,
    )
    parser.add_argument("engine", metavar="ENGINE", choices=ENGINES, help=", ".join(ENGINES))
    parser.add_argument(
        "--include", action="store_true", help="print the folder of the C header; build nothing"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    from alchemi_bridge.compiling import UnavailableError
    from alchemi_bridge.engines import lammps_plugin, plugins, plumed_plugin

    try:
        if args.include:
            path: Path = plugins.folder() / "include"
        else:
            build = {
                "c": plugins.shim,
                "lammps": lammps_plugin.build,
                "plumed": plumed_plugin.build,
                "gromacs": lambda: plugins.folder() / "gromacs",
            }
            path = build[args.engine]()
    except UnavailableError as error:
        raise plugins.unavailable(f"library for {args.engine}", error) from error
    if args.json:
        print_json({"engine": args.engine, "path": str(path)})
    else:
        # as it is, for $(...): no markup, no line breaks
        print(path)
    return 0

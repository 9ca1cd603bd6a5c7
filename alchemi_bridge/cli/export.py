"""``alchemi-bridge export``: writes a model in the form that another program takes."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from alchemi_bridge.cli.console import print_json
from alchemi_bridge.cli.options import add_command, add_file_options, json_option, variants

if TYPE_CHECKING:
    from alchemi_bridge.engines.nnpot.export import Exported

_EPILOG = """\
nnpot    a TorchScript file for the nnpot module of GROMACS 2025 and later (builds with libtorch of
         the version that wrote the file). GROMACS loads it without Python; it needs metatensor's
         and metatomic's libraries, which the file names.

--contract 2025 searches pairs by itself, in any box, and runs in all versions; take it for runs
with link atoms. --contract 2026 takes the pairs of GROMACS, for boxes of more than twice
nnpot-pair-cutoff (the cutoff and --skin). It compares each new list with an own search, and uses
its own pairs where that finds others, or where atoms have moved too far since, so that it is not
faster. Lines for the mdp file are printed.

GROMACS places link atoms without periodicity: a bond with one must not cross a face of the box.
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "export",
        description="Write a metatomic model in the form that another program takes.",
        parents=[json_option()],
        epilog=_EPILOG,
    )
    parser.add_argument("format", metavar="FORMAT", choices=("nnpot",), help="nnpot")
    parser.add_argument("model", metavar="MODEL", help="metatomic model file (.pt)")
    parser.add_argument("out", metavar="OUT", help="file to write (.pt)")
    parser.add_argument(
        "--contract",
        choices=("2025", "2026"),
        default="2025",
        help="inputs to take: those of GROMACS 2025, or pairs of 2026, too (default: 2025)",
    )
    parser.add_argument(
        "--skin",
        type=float,
        metavar="NM",
        help="buffer of lists beyond the cutoff, nm, up to 1; nnpot-pair-cutoff needs it, too "
        "(default: 0.1)",
    )
    parser.add_argument(
        "--libraries",
        choices=("paths", "names"),
        default="paths",
        help="name libraries by their paths here, or by name, to be found in LD_LIBRARY_PATH "
        "(default: paths)",
    )
    parser.add_argument(
        "--variant",
        metavar="[OUTPUT=]NAME",
        action="append",
        default=[],
        help="variant of the energy, or of the named output; may be repeated",
    )
    parser.add_argument(
        "--non-conservative",
        action="store_true",
        help="take forces from the model's direct output instead of the energy's gradient",
    )
    add_file_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    from alchemi_bridge.engines.nnpot.export import export
    from alchemi_bridge.engines.nnpot.mdp import mdp_lines
    from alchemi_bridge.engines.nnpot.reach import SKIN

    exported = export(
        args.model,
        args.out,
        contract=args.contract,
        skin=SKIN if args.skin is None else args.skin,
        libraries=args.libraries,
        variants=variants(args),
        non_conservative=args.non_conservative,
        extensions_directory=args.extensions,
        sha256=args.sha256,
    )
    lines = mdp_lines(exported)
    if args.json:
        print_json(_document(exported, lines))
    else:
        print("\n".join(_text(exported, lines)))
    return 0


def _folders(exported: Exported) -> list[str]:
    return list(dict.fromkeys(str(file.parent) for file in exported.libraries))


def _document(exported: Exported, lines: list[str]) -> dict[str, Any]:
    return {
        "file": str(exported.path),
        "contract": exported.contract,
        "inputs": list(exported.inputs),
        "cutoff_nm": exported.cutoff,
        "skin_nm": exported.skin,
        "types": list(exported.types),
        "torch_version": exported.torch_version,
        "libraries": [str(file) for file in exported.libraries],
        "extension_libs": exported.extension_libs,
        "relative_difference_from_provider": exported.checked,
        "mdp": lines,
    }


def _text(exported: Exported, lines: list[str]) -> list[str]:
    """What the user has to do, as lines that can be copied."""
    version = ".".join(exported.torch_version.split(".")[:2])
    checked = "not compared with the provider: the model fails on the structure for that"
    if exported.checked is not None:
        checked = f"differs from the provider by {exported.checked:.1e} (relative)"
    named = "/" in exported.extension_libs
    search = f"export LD_LIBRARY_PATH={os.pathsep.join(_folders(exported))}:$LD_LIBRARY_PATH"
    return [
        f"; {exported.path}, for GROMACS {exported.contract} and later with libtorch {version}",
        f"; {checked}",
        *lines,
        "; libraries that GROMACS opens, in this order:",
        *(f";   {file}" for file in exported.libraries),
        "; if they lie elsewhere there, export with --libraries names, and set LD_LIBRARY_PATH"
        if named
        else f"; they are looked for by name: {search}",
    ]

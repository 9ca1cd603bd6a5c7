"""``alchemi-bridge convert``: models of other software become metatomic models."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alchemi_bridge.cli.console import print_json, print_table, printable, stdout_console
from alchemi_bridge.cli.options import (
    add_command,
    add_force,
    add_hash,
    add_types,
    atomic_numbers,
    check_output,
    json_option,
)

if TYPE_CHECKING:
    from alchemi_bridge.potentials.deepmd import Conversion

_EPILOG = """\
deepmd   a frozen model of DeePMD-kit's PyTorch backend (dp --pt freeze): se_e2_a, DPA1 or DPA3 with
         an energy fitting net. DeePMD-kit is not needed.

Models of se_e2_a run this package's code with the weights of the file, which is compared with the
code in the file; others run the code in the file. Frozen models are code: the file is checked, as
model files are, before anything of it runs.
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "convert",
        description="Make a metatomic model of a model of other software.",
        parents=[json_option()],
        epilog=_EPILOG,
    )
    parser.add_argument("format", metavar="FORMAT", choices=("deepmd",), help="deepmd")
    parser.add_argument("source", metavar="SOURCE", help="file to convert (.pth)")
    parser.add_argument("output", metavar="OUTPUT", help="metatomic model to write (.pt)")
    add_types(parser)
    parser.add_argument(
        "--code",
        choices=("auto", "native", "deepmd"),
        default="auto",
        help="whose code the new model runs: this package's, or that in the file (default: ours "
        "where it is there)",
    )
    add_hash(parser)
    add_force(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    numbers = atomic_numbers(args.types)
    check_output(Path(args.output), args.force)
    from alchemi_bridge.potentials.deepmd import convert

    done = convert(args.source, args.output, numbers=numbers, code=args.code, sha256=args.sha256)
    if args.json:
        print_json(_document(done))
    else:
        _print(done)
    return 0


def _document(done: Conversion) -> dict[str, Any]:
    return {
        "path": str(done.path),
        "kind": done.kind,
        "code": done.code,
        "types": done.types,
        "interaction_range_angstrom": done.interaction_range,
        "source_sha256": done.sha256,
        "removed_operators": list(done.operators),
        # null: only one of the two codes was there to run
        "difference": done.difference,
    }


def _print(done: Conversion) -> None:
    from rich.table import Table

    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column(overflow="fold")
    for name, value in _facts(done):
        facts.add_row(name, printable(value))
    print_table(facts, stdout_console())


def _facts(done: Conversion) -> Iterator[tuple[str, str]]:
    yield "written", str(done.path)
    yield "kind", done.kind
    yield "code", "this package's" if done.code == "native" else "that of the frozen model"
    if done.difference is not None:
        yield "", f"differs from that of the frozen model by {done.difference:.1e} (eV, eV/Å)"
    yield "types", ", ".join(f"{name} ({number})" for name, number in done.types.items())
    yield "interaction range", f"{done.interaction_range:g} Å"
    yield "source SHA-256", done.sha256
    if done.operators:
        yield "operators removed", ", ".join(done.operators)

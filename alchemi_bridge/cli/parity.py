"""``alchemi-bridge parity``: do all ways of computing the same thing agree, and how fast."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alchemi_bridge.cli import options
from alchemi_bridge.cli.console import print_json, print_table, progress, stdout_console
from alchemi_bridge.errors import ConfigurationError

if TYPE_CHECKING:
    from alchemi_bridge.parity.cases import Case
    from alchemi_bridge.parity.paths import ParityPath

LOGGER = logging.getLogger(__name__)

_DESCRIPTION = """\
Compute the same structures on several independent paths and compare energy, forces, virial and
per-atom energies. Without arguments: built-in cases with a known answer. With MODEL and STRUCTURE:
your own model on your own structures, compared with metatomic-ase.

Writes a report (HTML, JSON, CSV, PNG) to the output folder.
Exit status: 0 all within tolerance, 1 something is off, 2 usage or bad input."""

_EPILOG = """\
examples:
  alchemi-bridge parity                       all built-in cases
  alchemi-bridge parity --quick               a subset
  alchemi-bridge parity --case silicon --path bridge-cpu
  alchemi-bridge parity model.pt water.xyz    your own files"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = options.add_command(
        subparsers,
        "parity",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        parents=[
            options.model_options(optional=True, device=False, threads=1),
            options.json_option(),
        ],
    )
    parser.add_argument(
        "structures", metavar="STRUCTURE", nargs="*", help="structure files, any that ASE reads"
    )
    group = parser.add_argument_group("what to run")
    group.add_argument("--quick", action="store_true", help="a subset of the built-in cases")
    group.add_argument(
        "--case", action="append", default=[], metavar="NAME", help="this built-in case; repeatable"
    )
    group.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="NAME",
        help="this path, besides the reference; repeatable",
    )
    group.add_argument(
        "--index", default=":", help="frames of each structure file, as in ASE (default: all)"
    )
    group.add_argument(
        "--repeats",
        type=options.positive_integer,
        default=25,
        metavar="N",
        help="timed steps of each path at most (default: 25)",
    )
    group.add_argument("--list", action="store_true", help="list cases and paths, and run nothing")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("parity-report"),
        metavar="DIR",
        help="folder for the report (default: parity-report)",
    )
    parser.set_defaults(run=run, **{options.REST: "structures"})


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    _check(args)
    if args.list:
        return _list(args)
    from alchemi_bridge.parity import report
    from alchemi_bridge.parity.document import document
    from alchemi_bridge.parity.run import Settings
    from alchemi_bridge.parity.run import run as run_parity

    _make_folder(args.output)  # before the work, not after it
    cases = _cases(args)
    settings = Settings(
        repeats=args.repeats,
        threads=args.threads,
        options={**options.output_options(args), "extensions_directory": args.extensions},
        sha256=args.sha256,
    )
    watch = partial(_watch, quiet=args.quiet)
    result = run_parity(cases, _paths(args), settings, watch)
    files = report.write(result, args.output)
    if args.json:
        print_json(document(result))
    else:
        print_table(report.table(result))
        out = stdout_console()
        out.print(
            report.summary(result), soft_wrap=True, style="green" if result.passed else "bold red"
        )
        note = report.busy(result)
        if note:
            out.print(f"note: {note}", style="yellow", soft_wrap=True)
        for name in ("html", "json", "csv"):
            out.print(f"{name}: {files[name]}", soft_wrap=True)
        plots = [path for path in files.values() if path.suffix == ".png"]
        if plots:
            out.print(f"plots: {len(plots)} PNG files in {args.output}", soft_wrap=True)
    return 0 if result.passed else 1


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigurationError(
            f"--output '{folder}'",
            expected="a folder for the files of the report",
            got="an existing file, or a path through one",
            fix="name a folder; it is made if need be",
        ) from error


def _check(args: argparse.Namespace) -> None:
    """Options that are out of range or contradict each other."""
    options.check_threads(args)
    conflicts = [
        (
            args.model and not args.structures and not args.list,
            "MODEL without STRUCTURE",
            "name one or more structure files as well",
        ),
        (
            args.model and (args.case or args.quick),
            "MODEL with --case or --quick",
            "leave out the built-in cases, or MODEL",
        ),
        (not args.model and args.index != ":", "--index without STRUCTURE", "leave out --index"),
        (not args.model and args.sha256, "--sha256 without MODEL", "leave out --sha256"),
        (
            not args.model and (args.variant or args.non_conservative or args.extensions),
            "options of a model without MODEL",
            "leave them out",
        ),
    ]
    for wrong, got, fix in conflicts:
        if wrong:
            raise ConfigurationError(
                "arguments of 'parity'",
                expected="either built-in cases, or MODEL and STRUCTURE",
                got=got,
                fix=fix,
            )


def _cases(args: argparse.Namespace) -> list[Case]:
    from alchemi_bridge.parity import cases

    if not args.model:
        return cases.select(args.case, quick=args.quick)
    from alchemi_bridge.engines.structure_files import (
        distinct_names,
        frame_label,
        read_structures,
    )

    names = distinct_names(args.structures)

    def label(file: str, number: int) -> str:
        return f"'{file}', {frame_label(number, args.index)}"

    return [
        cases.user_case(
            name, Path(args.model), read_structures(file, args.index), partial(label, file)
        )
        for name, file in zip(names, args.structures, strict=True)
    ]


def _paths(args: argparse.Namespace) -> list[ParityPath]:
    """The paths that were asked for, together with the reference that they are compared with."""
    from alchemi_bridge.parity import paths
    from alchemi_bridge.parity.run import REFERENCES

    if not args.path:
        return paths.select()
    asked = [path.name for path in paths.select(args.path)]
    if not args.model:
        return paths.select([*asked, "oracle"])
    if len(asked) > 1 and any(name in REFERENCES for name in asked):
        return paths.select(asked)
    peer = paths.registered()["metatomic-ase"]
    return paths.select([*asked, "metatomic-ase" if peer.unavailable() is None else "bridge-cpu"])


def _watch(cases: Sequence[Case], quiet: bool) -> Iterator[Case]:
    return iter(cases) if quiet else progress(cases, "parity")


def _list(args: argparse.Namespace) -> int:
    from rich.table import Table

    from alchemi_bridge.parity import paths
    from alchemi_bridge.parity.cases import BUILT_IN

    known = paths.registered().values()
    if args.json:
        print_json(
            {
                "cases": [
                    {
                        "name": c.name,
                        "description": c.description,
                        "dtype": c.dtype,
                        "quick": c.quick,
                    }
                    for c in BUILT_IN.values()
                ],
                "paths": [
                    {"name": p.name, "description": p.description, "reason": p.unavailable()}
                    for p in known
                ],
            }
        )
        return 0
    table = Table("case", "description", "dtype", "quick", header_style="bold")
    for case in BUILT_IN.values():
        table.add_row(case.name, case.description, case.dtype, "yes" if case.quick else "")
    print_table(table)
    table = Table("path", "description", "here", header_style="bold")
    for path in known:
        table.add_row(path.name, path.description, path.unavailable() or "yes")
    print_table(table)
    return 0

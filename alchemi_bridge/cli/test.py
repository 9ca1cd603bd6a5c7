"""``alchemi-bridge test``: errors of a DeePMD model on labelled systems."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from alchemi_bridge.cli.console import (
    print_json,
    print_table,
    printable,
    progress,
    stdout_console,
)
from alchemi_bridge.cli.options import (
    add_command,
    apply_threads,
    check_threads,
    json_option,
    positive_integer,
)


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "test",
        description="Root mean square errors of a trained DeePMD model on labelled systems.",
        parents=[json_option()],
    )
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="checkpoint; NAME stands for the last of NAME-STEP.pt"
    )
    parser.add_argument(
        "systems", metavar="FOLDER", nargs="+", help="systems, or folders with systems in them"
    )
    parser.add_argument("--threads", metavar="N", type=positive_integer, help="threads")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    check_threads(args)
    from alchemi_bridge.training import find_systems, read_system
    from alchemi_bridge.training.checkpoint import load
    from alchemi_bridge.training.rmse import ErrorSums, errors_of

    apply_threads(args)
    found = load(args.checkpoint)
    model, definition = found.build(), found.definition
    folders = [system for name in args.systems for system in find_systems(Path(name))]
    systems = [read_system(folder, definition.type_map) for folder in folders]
    total, rows = ErrorSums(), []
    for system in progress(systems, "testing"):
        sums = errors_of(model, system, definition.rcut)
        total.sums += sums.sums
        rows.append(_row(str(system.folder), system.n_frames, system.n_atoms, sums.rmse()))
    n_frames = sum(system.n_frames for system in systems)
    whole = _row("all", n_frames, None, total.rmse())
    if args.json:
        print_json({"systems": rows, "all": whole})
    else:
        _print([*rows, whole])
    return 0


def _row(name: str, n_frames: int, n_atoms: int | None, rmse: dict[str, float]) -> dict[str, Any]:
    return {"name": name, "frames": n_frames, "atoms": n_atoms, "rmse": rmse}


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("system", overflow="fold")
    for heading in ("frames", "atoms", "energy (meV/atom)", "force (meV/Å)", "virial (meV/atom)"):
        table.add_column(heading, justify="right")
    for row in rows:
        errors = [row["rmse"].get(name) for name in ("energy", "force", "virial")]
        table.add_row(
            printable(row["name"]),
            str(row["frames"]),
            "" if row["atoms"] is None else str(row["atoms"]),
            *("" if error is None else f"{1e3 * error:.3f}" for error in errors),
        )
    print_table(table, stdout_console())

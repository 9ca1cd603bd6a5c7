"""``alchemi-bridge test``: errors of a DeePMD model on labelled systems."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alchemi_bridge.cli.console import (
    print_json,
    print_table,
    printable,
    progress,
    stdout_console,
)
from alchemi_bridge.cli.model_errors import (
    errors_of_model,
    is_model_file,
    systems_with_elements,
)
from alchemi_bridge.cli.options import (
    add_command,
    add_types,
    apply_threads,
    atomic_numbers,
    check_threads,
    json_option,
    positive_integer,
)
from alchemi_bridge.errors import ConfigurationError

if TYPE_CHECKING:
    from alchemi_bridge.training import TrainingSystem
    from alchemi_bridge.training.rmse import ErrorSums


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "test",
        description="Root mean square errors on labelled systems (DeePMD's npy format), of a "
        "checkpoint of 'train' or of any metatomic model.",
        parents=[json_option()],
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="checkpoint (NAME stands for the last of NAME-STEP.pt) or metatomic model",
    )
    parser.add_argument(
        "systems", metavar="FOLDER", nargs="+", help="systems, or folders with systems in them"
    )
    add_types(parser, "for metatomic models: ")
    parser.add_argument("--threads", metavar="N", type=positive_integer, help="threads")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    check_threads(args)
    numbers = atomic_numbers(args.types)
    from alchemi_bridge.training import find_systems
    from alchemi_bridge.training.rmse import ErrorSums

    apply_threads(args)
    folders = [system for name in args.systems for system in find_systems(Path(name))]
    model_file = is_model_file(Path(args.model))
    if numbers and not model_file:
        raise ConfigurationError(
            "--types", expected="a metatomic model", got="a checkpoint, which knows its types",
            fix="leave it out",
        )  # fmt: skip
    systems, errors_of = (
        _of_model(args.model, folders, numbers)
        if model_file
        else _of_checkpoint(args.model, folders)
    )
    total, rows = ErrorSums(), []
    for system in progress(systems, "testing"):
        sums = errors_of(system)
        total.sums += sums.sums
        rows.append(_row(str(system.folder), system.n_frames, system.n_atoms, sums.rmse()))
    n_frames = sum(system.n_frames for system in systems)
    whole = _row("all", n_frames, None, total.rmse())
    if args.json:
        print_json({"systems": rows, "all": whole})
    else:
        _print([*rows, whole])
    return 0


_Prepared = tuple["list[TrainingSystem]", "Callable[[TrainingSystem], ErrorSums]"]


def _of_checkpoint(name: str, folders: list[Path]) -> _Prepared:
    from alchemi_bridge.training import read_system
    from alchemi_bridge.training.checkpoint import load
    from alchemi_bridge.training.rmse import errors_of

    found = load(name)
    model, definition = found.build(), found.definition
    systems = [read_system(folder, definition.type_map) for folder in folders]
    return systems, lambda system: errors_of(model, system, definition.rcut)


def _of_model(name: str, folders: list[Path], numbers: dict[str, int]) -> _Prepared:
    from alchemi_bridge import BridgeCalculator

    systems, elements = systems_with_elements(folders, numbers)
    calculator = BridgeCalculator(name)
    return systems, lambda system: errors_of_model(calculator, system, elements)


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

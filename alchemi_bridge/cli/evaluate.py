"""``alchemi-bridge evaluate``: energy, forces and stress of the structures in files."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from alchemi_bridge.cli.console import LOGGER, print_json, print_table, progress, stdout_console
from alchemi_bridge.cli.options import (
    add_command,
    add_force,
    apply_threads,
    calculator_options,
    check_output,
    json_option,
    model_options,
    positive_integer,
)
from alchemi_bridge.errors import BridgeError, ConfigurationError

if TYPE_CHECKING:
    from ase import Atoms

    from alchemi_bridge.cli.evaluate_frames import Evaluator, Result

#: Rows of the printed table; the files and --json hold all frames.
MAX_ROWS = 40

_EPILOG = """\
The output is extended XYZ with 17 significant digits: the frames as they were read, with energy,
forces and (periodic in all directions) stress, which ASE reads back as results of a calculator;
energy_uncertainty and energy_ensemble if the model has them; further outputs under their names with
everything but letters and digits replaced by '_' (zoo::x becomes zoo_x).

The output is written to a file with .partial behind its name, which is renamed when all frames are
done. If one fails, the .partial file stays, with the frames before it; another run overwrites it.

exit status: 0 done, 2 bad input.
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "evaluate",
        description="Evaluate a metatomic model on all frames of structure files.",
        parents=[model_options(), json_option()],
        epilog=_EPILOG,
    )
    parser.add_argument(
        "structures", metavar="STRUCTURE", nargs="+", help="any file that ASE reads"
    )
    parser.add_argument(
        "--index",
        default=":",
        help="frames, as in ASE: -1, 10:20, ::5 (default: all); they are numbered as picked",
    )
    parser.add_argument(
        "--batch",
        type=positive_integer,
        default=1,
        metavar="N",
        help="frames in one evaluation of the model (default: 1); pays off for small structures",
    )
    parser.add_argument("--energies", action="store_true", help="also the energy of each atom")
    parser.add_argument(
        "--output-name",
        action="append",
        default=[],
        metavar="NAME",
        help="also this output of the model, such as zoo::x; may be repeated",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="one file for all frames (default: STRUCTURE with the suffix .evaluated.extxyz)",
    )
    add_force(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    from alchemi_bridge.cli.evaluate_frames import Evaluator
    from alchemi_bridge.engines.structure_files import read_structures

    # missing and unknown files show before the model is loaded, not after a thousand frames
    for structure in args.structures:
        read_structures(structure, args.index)
    outputs = _output_files(args)
    apply_threads(args)
    evaluator = Evaluator(args.model, calculator_options(args), args.energies, args.output_name)
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    with _Writer() as writer:
        try:
            for structure, output in zip(args.structures, outputs, strict=True):
                for result in _results(args, evaluator, Path(structure)):
                    writer.write(output, result)
                    rows.append(result.summary)
        except BridgeError as error:
            if not rows:
                raise
            fix = f"{error.fix}; what was done before is in {writer.partial_files}"
            kind = type(error)
            raise kind(error.what, expected=error.expected, got=error.got, fix=fix) from error
    seconds = time.perf_counter() - began
    document = {
        "model": args.model,
        "frames": rows,
        "outputs": sorted({str(path) for path in outputs}),
        "columns": evaluator.columns,
        "ms_per_frame": 1000 * seconds / len(rows),
    }
    if args.json:
        print_json(document)
    else:
        _print(document)
    return 0


def _output_files(args: argparse.Namespace) -> list[Path]:
    """Output of each structure file, checked."""
    inputs = [Path(name) for name in args.structures]
    if args.output == "-":
        raise ConfigurationError(
            "--output",
            expected="the name of a file",
            got="'-': structures are not written to standard output",
            fix="name a file ('./-' for one of that name); --json prints energies",
        )
    if args.output is not None:
        outputs = [Path(args.output)] * len(inputs)
    else:
        outputs = [path.with_suffix(".evaluated.extxyz") for path in inputs]
        twice = {path for path in outputs if outputs.count(path) > 1}
        if twice:
            raise ConfigurationError(
                "structure files",
                expected="names that differ before the last dot, to name the outputs after",
                got=f"several whose output would be '{min(twice)}'",
                fix="pass --output FILE, or evaluate them one by one",
            )
    for path in outputs:
        check_output(path, args.force, "choose another --output")
    real_inputs = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if {os.path.realpath(path), os.path.realpath(_partial(path))} & real_inputs:
            raise ConfigurationError(
                f"output '{path}'",
                expected="another file than the structures, also with .partial behind it",
                got="a file that is to be read",
                fix="choose another --output",
            )
    return outputs


def _results(args: argparse.Namespace, evaluator: Evaluator, structure: Path) -> Iterator[Result]:
    """Results of all frames of one file, in batches, without ever holding all frames."""
    from alchemi_bridge.cli.extxyz import count_frames
    from alchemi_bridge.engines.structure_files import read_structures

    frames = progress(
        read_structures(structure, args.index),
        structure.name,
        total=count_frames(structure, args.index),
    )
    number = itertools.count()
    # islice takes no larger number
    size = min(args.batch, sys.maxsize)
    while batch := list(itertools.islice(frames, size)):
        numbers = [next(number) for _ in batch]
        yield from _evaluate(evaluator, structure, args.index, numbers, batch)


def _evaluate(
    evaluator: Evaluator, structure: Path, index: str, numbers: list[int], batch: list[Atoms]
) -> Iterator[Result]:
    """Results of a batch; if it fails, of its frames one by one up to the one at fault."""
    from alchemi_bridge.engines.structure_files import frame_label

    try:
        yield from evaluator.evaluate(str(structure), numbers, batch)
    except BridgeError as error:
        if len(batch) > 1:
            for number, atoms in zip(numbers, batch, strict=True):
                yield from _evaluate(evaluator, structure, index, [number], [atoms])
            raise
        what = f"'{structure}', {frame_label(numbers[0], index)}: {error.what}"
        raise type(error)(what, expected=error.expected, got=error.got, fix=error.fix) from error


def _partial(output: Path) -> Path:
    """Where an output is written until it is complete: beside the file that it will replace."""
    # a link stays a link: what it points to is replaced
    real = os.path.realpath(output) if output.is_symlink() else output
    return Path(f"{real}.partial")


class _Writer:
    """Opens each output when its first frame is there, under its final name once all are done."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: IO[str] | None = None
        self._written: dict[Path, Path] = {}  # final name: where it is until then

    @property
    def partial_files(self) -> str:
        """The unfinished files, for messages."""
        return ", ".join(f"'{path}'" for path in self._written.values())

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None:
            for output, partial in self._written.items():
                os.replace(partial, os.path.realpath(output) if output.is_symlink() else output)
        elif self._written and not issubclass(kind, BridgeError):  # those say it themselves
            LOGGER.warning("what was done before is in %s", self.partial_files)

    def write(self, path: Path, result: Result) -> None:
        """Append a frame to an output."""
        from alchemi_bridge.cli.extxyz import write_frame

        if path != self._path or self._file is None:
            if self._file is not None:
                self._file.close()
            partial = _partial(path)
            self._file = partial.open("a" if path in self._written else "w", encoding="utf-8")
            self._path = path
            self._written[path] = partial
        write_frame(self._file, result.atoms, arrays=result.arrays, info=result.info)


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = document["frames"]
    columns = (
        ("energy_eV", "energy (eV)", ".6f"),
        ("energy_per_atom_eV", "per atom (eV)", ".6f"),
        ("max_force_eV_per_A", "max. force (eV/Å)", ".3e"),
        ("pressure_GPa", "pressure (GPa)", ".4f"),
        ("max_uncertainty_eV", "max. uncertainty (eV)", ".3e"),
    )
    # a column that no frame has an entry for says nothing
    shown = [column for column in columns if any(row[column[0]] is not None for row in rows)]
    table = Table()
    for name in ("structure", "frame", "atoms", "formula"):
        table.add_column(name)
    for _, title, _ in shown:
        table.add_column(title, justify="right")
    for row in rows[:MAX_ROWS]:
        numbers = ["-" if row[key] is None else format(row[key], form) for key, _, form in shown]
        table.add_row(
            Text(row["structure"]), str(row["frame"]), str(row["atoms"]), row["formula"], *numbers
        )
    console = stdout_console()
    print_table(table, console)
    if len(rows) > MAX_ROWS:
        console.print(f"... and {len(rows) - MAX_ROWS} more frames")
    where = ", ".join(document["outputs"])
    console.print(
        f"{len(rows)} frames, {document['ms_per_frame']:.2f} ms each, written to {where}",
        soft_wrap=True,
        markup=False,
    )

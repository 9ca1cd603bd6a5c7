"""``alchemi-bridge sweep``: the parity matrix of many models, structures and engines."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alchemi_bridge.cli import options
from alchemi_bridge.cli.console import (
    counting,
    print_error,
    print_json,
    print_table,
    stdout_console,
)
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.interrupts import Interrupts

if TYPE_CHECKING:
    from alchemi_bridge.ensembles.executors.base import Executor
    from alchemi_bridge.ensembles.hints import SchedulerHints
    from alchemi_bridge.ensembles.sweep.engines import Engine
    from alchemi_bridge.ensembles.sweep.matrix import Matrix
    from alchemi_bridge.ensembles.sweep.plan import Cell, Plan
    from alchemi_bridge.ensembles.sweep.store import CellStore

_DESCRIPTION = """\
Compute every structure with every model in every engine, and compare energy, forces, virial and
per-atom energies with a reference: the parity matrix.

MODELS and STRUCTURES are each a file, a folder (with all that is in it), or a pattern in quotes
such as 'models/*.pt'. Further ones are named with --models and --structures. A structure file is
one column of the matrix, with all of its frames. What an engine does not serve, and structures with
elements that a model does not know, are skipped, with the reason. An error in one cell stops no
other.

Writes sweep.html, sweep.json, sweep.csv and sweep-heatmap.png to the output folder, and each cell
to cells.jsonl as soon as it is finished: the same command again, after an interrupt or with more
models, structures or engines, runs only what is missing or had an error. A file that changed, other
options and other versions are run anew.

Exit status: 0 all passed or skipped, 1 something is off or nothing was compared, 2 usage or bad
input, 130 interrupted, 143 terminated."""

EXIT_TERMINATED = 143  # 128 + SIGTERM, as shells report it

_EPILOG = """\
examples:
  alchemi-bridge sweep model.pt structures --engines ase,lammps
  alchemi-bridge sweep models structures --engines ase,lammps --workers 8
  alchemi-bridge sweep models 'runs/*/last.xyz' --engines lammps --ray-address auto

Without --workers and --ray-address all is done in this process, one cell after the other, which is
faster for less than about a minute of work: Ray takes some ten seconds to start, and each of its
workers loads its models anew. Both need Ray (pip install "alchemi-bridge[ray]"): --workers N starts
one on this machine, with N cores, that ends with the sweep; --ray-address uses one that is running,
which must see the files at the same paths, and leaves it running."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = options.add_command(
        subparsers,
        "sweep",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        parents=[options.json_option()],
    )
    parser.add_argument("first_models", metavar="MODELS", help="metatomic model files (.pt)")
    parser.add_argument(
        "first_structures", metavar="STRUCTURES", help="structure files, any that ASE reads"
    )
    _add_matrix(parser.add_argument_group("what to run"))
    model = parser.add_argument_group("models")
    options.add_file_options(model)
    options.add_output_choices(model)
    _add_workers(parser.add_argument_group("where to run it"))
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("sweep-report"),
        metavar="DIR",
        help="folder for the report and the finished cells (default: sweep-report)",
    )
    parser.add_argument("--fresh", action="store_true", help="forget finished cells in DIR")
    parser.set_defaults(run=run)


def _add_matrix(group: Any) -> None:
    for what in ("models", "structures"):
        group.add_argument(
            f"--{what}",
            action="append",
            default=[],
            metavar=what.upper(),
            help=f"further {what}; repeatable",
        )
    group.add_argument(
        "--engines",
        action="append",
        metavar="NAME,...",
        help="engines: ase (the bridge behind ASE), lammps, gromacs, nvalchemi, or any path of "
        "'alchemi-bridge parity --list' (default: ase)",
    )
    group.add_argument(
        "--reference",
        metavar="NAME",
        help="what they are compared with (default: metatomic-ase, or the first engine where that "
        "is not installed)",
    )
    group.add_argument(
        "--index", default=":", help="frames of each structure file, as in ASE (default: all)"
    )


def _add_workers(group: Any) -> None:
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=options.positive_integer,
        default=1,
        metavar="N",
        help="cores of this machine; more than one needs Ray (default: 1)",
    )
    where.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="a Ray that is running: auto, HOST:PORT or ray://HOST:PORT",
    )
    group.add_argument(
        "--num-cpus",
        type=_amount,
        metavar="N",
        help="cores of an evaluation, and threads of torch (default: 1)",
    )
    group.add_argument(
        "--num-gpus",
        type=_amount,
        metavar="N",
        help="GPUs of an evaluation, on Ray (default: 1 for engines on a GPU, else none)",
    )
    group.add_argument(
        "--mem-mb", type=_amount, metavar="MB", help="memory of an evaluation, on Ray"
    )
    group.add_argument(
        "--max-retries",
        type=_count,
        metavar="N",
        help="how often a task is run again if its worker died, on Ray (default: 2)",
    )


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number that is not negative, got '{text}'")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from alchemi_bridge.ensembles.sweep import report
    from alchemi_bridge.ensembles.sweep.matrix import document
    from alchemi_bridge.ensembles.sweep.run import HINTS, inspected
    from alchemi_bridge.ensembles.sweep.store import CellStore

    plan = _plan(args)
    hints = _hints(args).over(HINTS)
    try:
        with (
            CellStore(args.output, fresh=args.fresh) as store,
            _executor(args) as executor,
            _interrupted_by_sigterm(),  # after Ray, which has its own way with it
        ):
            matrix = _run(args, inspected(plan, executor, hints), executor, store, hints)
    except _Terminated:
        print_error("terminated")
        return EXIT_TERMINATED
    data = document(matrix)
    files = report.write(matrix, data, args.output)
    if args.json:
        print_json(data)
    else:
        for table in report.tables(matrix, data):
            print_table(table)
        out = stdout_console()
        style = "green" if matrix.passed else "bold red"
        out.print(matrix.summary(), soft_wrap=True, style=style)
        for name, path in files.items():
            out.print(f"{name}: {path}", soft_wrap=True)
    return 0 if matrix.passed else 1


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it: all ends as with Ctrl-C."""


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # others may not ask for signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with Interrupts():
            yield
    finally:
        # None: a handler that Python knows nothing of
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _run(
    args: argparse.Namespace,
    plan: Plan,
    executor: Executor,
    store: CellStore,
    hints: SchedulerHints,
) -> Matrix:
    from alchemi_bridge.ensembles.sweep.run import run as run_sweep
    from alchemi_bridge.ensembles.sweep.run import unfinished

    missing = len(unfinished(plan, store))
    off = 0
    with counting("sweep", missing) as advance:

        def finished(cell: Cell, record: Mapping[str, Any]) -> None:
            nonlocal off
            del cell
            off += record["status"] in ("failed", "error")
            advance(f"sweep, {off} off" if off else "sweep")

        try:
            return run_sweep(plan, executor, store, hints=hints, on_cell=finished)
        except KeyboardInterrupt:
            left = len(unfinished(plan, store))
            sys.stderr.write(
                f"{missing - left} cells were finished and are kept in '{store.path}'; the same "
                f"command goes on with the other {left}\n"
            )
            raise


def _plan(args: argparse.Namespace) -> Plan:
    from alchemi_bridge.ensembles.sweep.plan import make_plan

    engines, reference = _engines(args)
    return make_plan(
        [args.first_models, *args.models],
        [args.first_structures, *args.structures],
        engines,
        reference,
        index=args.index,
        options={**options.output_options(args), "extensions_directory": _extensions(args)},
        sha256=args.sha256,
    )


def _extensions(args: argparse.Namespace) -> str | None:
    # workers have other folders
    return None if args.extensions is None else str(Path(args.extensions).absolute())


def _engines(args: argparse.Namespace) -> tuple[list[Engine], Engine]:
    """The engines, and what they are compared with, which is none of them."""
    from alchemi_bridge.ensembles.sweep.engines import PEER, engine, engines

    words = [word.strip() for entry in args.engines or ["ase"] for word in entry.split(",")]
    if not any(words):
        raise ConfigurationError(
            "--engines",
            expected="names of engines, with commas between them",
            got=f"'{','.join(words)}'",
            fix="name some, such as ase,lammps, or leave it out",
        )
    chosen = engines([word for word in words if word])
    if args.reference is not None:
        reference = engine(args.reference)
    else:
        peer = engine(PEER)
        there = peer.path.unavailable() is None
        reference = peer if there or not chosen else chosen[0]
    others = [one for one in chosen if one.path.name != reference.path.name]
    if not others:
        raise ConfigurationError(
            "--engines",
            expected=f"at least one besides the reference, which is '{reference.name}'",
            got=", ".join(filter(None, words)),
            fix="name another engine, or another --reference",
        )
    return others, reference


def _hints(args: argparse.Namespace) -> SchedulerHints:
    from alchemi_bridge.ensembles.hints import SchedulerHints

    return SchedulerHints(
        num_cpus=args.num_cpus,
        num_gpus=args.num_gpus,
        mem_mb=args.mem_mb,
        max_retries=args.max_retries,
    )


def _executor(args: argparse.Namespace) -> Executor:
    if args.ray_address is None and args.workers == 1:
        from alchemi_bridge.ensembles.executors.in_process import InProcessExecutor

        return InProcessExecutor()
    from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor

    if args.ray_address is not None:
        return RayExecutor(address=args.ray_address)
    # "local": not one that RAY_ADDRESS names
    return RayExecutor(address="local", init_options={"num_cpus": args.workers})

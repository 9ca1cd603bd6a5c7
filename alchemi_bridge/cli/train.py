"""``alchemi-bridge train``: train a DeePMD model."""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alchemi_bridge.cli.console import print_json, print_table, progress, stdout_console
from alchemi_bridge.cli.options import (
    add_command,
    apply_threads,
    check_threads,
    json_option,
    positive_integer,
)
from alchemi_bridge.errors import ConfigurationError

if TYPE_CHECKING:
    from alchemi_bridge.training import Training

_EPILOG = """\
INPUT is DeePMD-kit's input file (version 2 or 3), the part that se_e2_a needs; data are systems in
the npy format. On several ranks:

    torchrun --nproc_per_node=2 --no-python alchemi-bridge train INPUT

Batches then have the frames of INPUT for each rank, as with DeePMD-kit. Written are the learning
curve (disp_file, and a picture beside it) and checkpoints (save_ckpt-STEP.pt), of which
'alchemi-bridge freeze' makes a model for any engine.
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "train",
        description="Train a DeePMD model (se_e2_a).",
        parents=[json_option()],
        epilog=_EPILOG,
    )
    parser.add_argument("input", metavar="INPUT", help="DeePMD-kit's input file (JSON)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--restart",
        metavar="CKPT",
        help="go on from a checkpoint; NAME stands for the last of NAME-STEP.pt",
    )
    start.add_argument(
        "--finetune",
        metavar="CKPT",
        help="begin with the weights of a checkpoint, or of a model of DeePMD-kit (frozen .pth, or "
        "its checkpoint), at step zero",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        default=".",
        help="where files are written, made if need be (default: here)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="remove checkpoints and curve of another run with these names",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where to train (default: a GPU if there is one); every rank has its own GPU",
    )
    parser.add_argument("--threads", metavar="N", type=positive_integer, help="threads of a rank")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    check_threads(args)
    import torch

    from alchemi_bridge.domain.ranks import launched_ranks
    from alchemi_bridge.training import Start, Training, joined, read_input
    from alchemi_bridge.training.ranks import said_once

    apply_threads(args)
    if launched_ranks() > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigurationError(
            "train on several ranks",
            expected="ranks that torchrun started",
            got="ranks of MPI",
            fix="use torchrun --nproc_per_node=N --no-python alchemi-bridge train INPUT",
        )
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "--device", expected="a device that is there", got="cuda, and no GPU", fix="choose cpu"
        )
    start = Start(
        restart=Path(args.restart) if args.restart else None,
        finetune=Path(args.finetune) if args.finetune else None,
        force=args.force,
    )
    with joined(args.device) as ranks:
        with said_once(ranks):
            training = Training(read_input(args.input), Path(args.output), ranks, start)
        first, began = training.step, time.perf_counter()
        steps = training.steps()
        if ranks.is_first:
            steps = progress(steps, "training", total=training.settings.n_steps - first)
        for _ in steps:
            pass
        seconds = time.perf_counter() - began
        if ranks.is_first:
            report = _report(training, first, seconds)
            if args.json:
                print_json(report)
            else:
                _print(report)
    return 0


def _report(training: Training, first: int, seconds: float) -> dict[str, Any]:
    rows = training.curve.rows
    return {
        "steps": training.step,
        "epoch_length": training.epoch_length,
        "ranks": training.ranks.n_ranks,
        "device": str(training.ranks.device),
        "ms_per_step": 1e3 * seconds / max(training.step - first, 1),
        "checkpoint": str(training.last_checkpoint),
        # times of the first rank
        "times_ms": training.times(),
        "curve": str(training.curve.path),
        # eV/atom, eV/Å, eV/atom: of the last batch, and of all validation frames
        "errors": {
            k: v if math.isfinite(v) else None
            for k, v in (rows[-1] if rows else {}).items()
            if k.startswith(("training_", "validation_"))
        },
    }


def _print(report: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    table.add_row("checkpoint", report["checkpoint"])
    table.add_row("learning curve", report["curve"])
    ranks = f"{report['ranks']} on {report['device'].partition(':')[0]}"
    table.add_row("steps", f"{report['steps']} ({report['ms_per_step']:.1f} ms each)")
    table.add_row("ranks", ranks)
    if times := report["times_ms"]:
        text = ", ".join(f"{name} {value:.2f} ms" for name, value in times.items())
        table.add_row("one evaluation", text)
    for name, value in report["errors"].items():
        label, _, quantity = name.partition("_")
        unit = "meV/Å" if quantity == "force" else "meV/atom"
        text = "not finite" if value is None else f"{1e3 * value:.3g} {unit}"
        table.add_row(f"{label} {quantity} RMSE", text)
    print_table(table, stdout_console())

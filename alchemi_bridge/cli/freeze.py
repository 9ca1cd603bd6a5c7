"""``alchemi-bridge freeze``: a checkpoint becomes a metatomic model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from alchemi_bridge.cli.console import print_json, stdout_console
from alchemi_bridge.cli.options import (
    add_command,
    add_force,
    add_types,
    atomic_numbers,
    check_output,
    json_option,
)


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "freeze",
        description="Make a metatomic model, for any engine, of a checkpoint of 'train'.",
        parents=[json_option()],
    )
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="checkpoint; NAME stands for the last of NAME-STEP.pt"
    )
    parser.add_argument("output", metavar="OUTPUT", help="metatomic model to write (.pt)")
    add_types(parser)
    add_force(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    numbers = atomic_numbers(args.types)
    check_output(Path(args.output), args.force)
    from alchemi_bridge.model.archive import sha256_of
    from alchemi_bridge.training import freeze

    path = freeze(args.checkpoint, args.output, numbers=numbers)
    with path.open("rb") as stream:
        sha256 = sha256_of(stream)
    if args.json:
        print_json({"path": str(path), "sha256": sha256})
    else:
        stdout_console().print(f"{path}  SHA-256 {sha256}", markup=False, soft_wrap=True)
    return 0

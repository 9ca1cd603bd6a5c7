"""``alchemi-bridge freeze``: a checkpoint becomes a metatomic model."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from alchemi_bridge.cli.console import print_json, stdout_console
from alchemi_bridge.cli.convert import atomic_numbers
from alchemi_bridge.cli.options import add_command, add_force, check_output, json_option


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
    parser.add_argument(
        "--types",
        metavar="NAME=NUMBER",
        action="append",
        default=[],
        help="atomic number of a type that is not named by its symbol; may be repeated",
    )
    add_force(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    numbers = atomic_numbers(args.types)
    check_output(Path(args.output), args.force)
    from alchemi_bridge.training import freeze

    path = freeze(args.checkpoint, args.output, numbers=numbers)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if args.json:
        print_json({"path": str(path), "sha256": sha256})
    else:
        stdout_console().print(f"{path}  SHA-256 {sha256}", markup=False, soft_wrap=True)
    return 0

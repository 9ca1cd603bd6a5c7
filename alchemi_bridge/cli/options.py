"""Options that several commands share, and what they turn into."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alchemi_bridge.errors import BridgeError, ConfigurationError, VariantError

#: Set with ``parser.set_defaults(**{REST: "name"})``: the list among the positional arguments that
#: takes up what stands behind options.
REST = "rest_goes_to"

#: Largest ``--threads``: far above what helps anywhere, far below what brings a machine down.
MAX_THREADS = 1024

_SubParsers = Any  # argparse's own type for this is private


def add_command(
    subparsers: _SubParsers,
    name: str,
    *,
    description: str,
    parents: Sequence[argparse.ArgumentParser] = (),
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """Parser of one command, with the global options accepted behind the command as well."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        description=description,
        epilog=epilog,
        parents=[*parents, global_options(suppress=True)],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def global_options(suppress: bool = False) -> argparse.ArgumentParser:
    """Options of every command.

    Parameters
    ----------
    suppress
        Set nothing where an option is not given: the copy behind the command must not overwrite
        what was given in front of it.
    """
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("output")

    def default(value: Any) -> Any:
        return argparse.SUPPRESS if suppress else value

    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=default(0),
        help="say what is being done; twice for everything",
    )
    group.add_argument(
        "--quiet",
        action="store_true",
        default=default(False),
        help="no progress bars, no warnings; errors and results only",
    )
    group.add_argument(
        "--debug",
        action="store_true",
        default=default(False),
        help="show the traceback of an error",
    )
    return parser


def json_option() -> argparse.ArgumentParser:
    """``--json``."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document on stdout, and nothing else",
    )
    return parser


def add_hash(parser: argparse._ActionsContainer) -> None:
    """``--sha256``."""
    parser.add_argument(
        "--sha256", metavar="HASH", help="refuse any file with another SHA-256 hash"
    )


def add_types(parser: argparse._ActionsContainer, whose: str = "") -> None:
    """``--types``, which :func:`atomic_numbers` reads; ``whose`` begins its help."""
    parser.add_argument(
        "--types",
        metavar="NAME=NUMBER",
        action="append",
        default=[],
        help=f"{whose}atomic number of a type that is not named by its symbol; may be repeated",
    )


def atomic_numbers(entries: Sequence[str]) -> dict[str, int]:
    """What ``--types`` says.

    Raises
    ------
    ConfigurationError
        If an entry is not NAME=NUMBER, or a name comes twice.
    """
    numbers: dict[str, int] = {}
    for entry in entries:
        name, _, number = entry.rpartition("=")
        if not name or not number.isdecimal() or name in numbers:
            raise ConfigurationError(
                "--types",
                expected="NAME=NUMBER, each name once",
                got=f"'{entry}'",
                fix="write --types Ow=8, for example",
            )
        numbers[name] = int(number)
    return numbers


def add_file_options(parser: argparse._ActionsContainer) -> None:
    """``--sha256`` and ``--extensions``: what a model file is, and what it needs."""
    add_hash(parser)
    parser.add_argument(
        "--extensions",
        metavar="DIR",
        help="directory with the compiled extensions that the model needs",
    )


def add_force(parser: argparse._ActionsContainer) -> None:
    """``--force``."""
    parser.add_argument("--force", action="store_true", help="overwrite existing output")


def check_output(path: Path, force: bool, another: str = "name another file") -> None:
    """Refuse to write to what is no file, and without ``--force`` to one that is there.

    Parameters
    ----------
    path
        The file to write.
    force
        Whether it may be there.
    another
        How to write elsewhere, in the imperative.

    Raises
    ------
    ConfigurationError
        If it is a folder or the like, or is there without ``force``.
    """
    what = f"output '{path}'"
    if path.exists() and not path.is_file():
        raise ConfigurationError(
            what,
            expected="a regular file, or none yet",
            got="a folder" if path.is_dir() else "something that is not a regular file",
            fix=another,
        )
    if path.exists() and not force:
        raise ConfigurationError(
            what,
            expected="a file that is not there yet",
            got="an existing file",
            fix=f"pass --force to overwrite it, or {another}",
        )


def model_options(
    *,
    model: bool = True,
    optional: bool = False,
    device: bool = True,
    threads: int | None = None,
) -> argparse.ArgumentParser:
    """MODEL and how to load and run it.

    Parameters
    ----------
    model
        Whether MODEL itself is part of it.
    optional
        Whether MODEL may be left out.
    device
        Whether ``--device`` is part of it.
    threads
        Default of ``--threads``; None leaves it to torch (and ``OMP_NUM_THREADS``).
    """
    parser = argparse.ArgumentParser(add_help=False)
    if model:
        nargs: dict[str, Any] = {"nargs": "?"} if optional else {}
        parser.add_argument("model", metavar="MODEL", help="metatomic model file (.pt)", **nargs)
    group = parser.add_argument_group("model")
    if device:
        group.add_argument(
            "--device",
            help="torch device, such as cpu or cuda:1 (default: the model's first choice)",
        )
    add_file_options(group)
    add_output_choices(group)
    group.add_argument(
        "--threads",
        type=positive_integer,
        default=threads,
        metavar="N",
        help=f"CPU threads of torch (default: {threads if threads else 'as torch chooses'})",
    )
    return parser


def add_output_choices(parser: argparse._ActionsContainer) -> None:
    """``--variant`` and ``--non-conservative``, which :func:`output_options` reads."""
    parser.add_argument(
        "--variant",
        metavar="[OUTPUT=]NAME",
        action="append",
        default=[],
        help="variant of the energy, or of the named output; may be repeated",
    )
    parser.add_argument(
        "--non-conservative",
        choices=("both", "forces", "stress"),
        help="take these from the model's direct outputs instead of the energy's gradient",
    )


def positive_integer(text: str) -> int:
    """An integer of one or more, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got '{text}'")
    return value


def variants(args: argparse.Namespace) -> dict[str, str] | None:
    """``--variant`` as the calculators take it.

    Raises
    ------
    ConfigurationError
        If an entry is empty, or an output is named twice.
    """
    chosen: dict[str, str] = {}
    for entry in args.variant:
        output, separator, name = entry.partition("=")
        if not separator:
            output, name = "energy", entry
        if not output or not name or output in chosen:
            raise ConfigurationError(
                "--variant",
                expected="NAME or OUTPUT=NAME, each output once",
                got=f"'{entry}'",
                fix="see 'alchemi-bridge inspect MODEL' for the variants of a model",
            )
        chosen[output] = name
    return chosen or None


def in_words_of_the_command_line(error: BridgeError) -> BridgeError:
    """An error whose advice names options, not keywords of Python; others as they are."""
    if not isinstance(error, VariantError):
        return error
    fix = re.sub(r"variants=\{'([^']+)': \.\.\.\}", r"--variant \1=NAME", error.fix)
    return type(error)(error.what, expected=error.expected, got=error.got, fix=fix)


def non_conservative(args: argparse.Namespace) -> bool | str:
    """``--non-conservative`` as the calculators take it."""
    choice: str | None = args.non_conservative
    return {None: False, "both": True}.get(choice, choice) or False


def loading_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of :func:`alchemi_bridge.model.load_model` from the command line."""
    return {
        "device": args.device,
        "sha256": args.sha256,
        "extensions_directory": args.extensions,
    }


def calculator_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of :class:`alchemi_bridge.engines.ase.BridgeCalculator` from the command line."""
    return {**loading_options(args), **output_options(args)}


def output_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords among them that say which outputs of the model are used."""
    return {
        "variants": variants(args),
        "non_conservative": non_conservative(args),
    }


def check_threads(args: argparse.Namespace) -> None:
    """Refuse a number of threads that no machine serves.

    Raises
    ------
    ConfigurationError
        If ``--threads`` is above :data:`MAX_THREADS`.
    """
    if args.threads is not None and args.threads > MAX_THREADS:
        raise ConfigurationError(
            "--threads",
            expected=f"at most {MAX_THREADS}",
            got=str(args.threads),
            fix="pass the number of CPU cores, or leave --threads out",
        )


def apply_threads(args: argparse.Namespace) -> None:
    """Set torch's threads if ``--threads`` was given or has a default.

    Raises
    ------
    ConfigurationError
        As :func:`check_threads`.
    """
    check_threads(args)
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)

"""``alchemi-bridge``: finds the command, runs it, and turns errors into messages and exit status.

Exit status: 0 all is well, 1 something is off (a comparison or check failed), 2 usage or bad input,
70 a bug in alchemi_bridge, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence

from alchemi_bridge import __version__
from alchemi_bridge.cli.console import LOGGER, print_error, set_up_logging
from alchemi_bridge.cli.options import REST, global_options, in_words_of_the_command_line
from alchemi_bridge.errors import BridgeError
from alchemi_bridge.interrupts import Interrupts

EXIT_OK = 0
EXIT_OFF = 1
EXIT_USAGE = 2
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

#: Commands and their line in ``--help``; each is the module ``alchemi_bridge.cli.<command>``.
COMMANDS = {
    "doctor": "is everything here and in the accepted range: versions, devices, native code",
    "inspect": "what a model file is: outputs, units, cutoffs, inputs, extensions, hash",
    "convert": "make a metatomic model of a model of other software (DeePMD-kit)",
    "train": "train a DeePMD model; torchrun starts several ranks",
    "test": "errors of a trained model on labelled systems",
    "freeze": "make a metatomic model of a checkpoint of 'train'",
    "evaluate": "energy, forces and stress of the structures in a file",
    "md": "molecular dynamics or relaxation of a structure",
    "parity": "do all ways of computing the same thing agree, and how fast are they",
    "sweep": "the same for many models, structures and engines, on one machine or a cluster",
    "fit": "fit parameters of a model to averages of simulations, or to energies and forces",
    "verify": "is a model consistent: gradients, invariances, smoothness, extensivity",
    "export": "write a model as a file for another program (GROMACS' nnpot module)",
    "plugin": "build the library for an engine (C interface, LAMMPS), and print its path",
    "bench": "what a step costs, against metatomic-ase and the model alone",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments without the program's name; ``sys.argv`` if None.

    Returns
    -------
    int
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.stderr is None:
        # closed by the caller: without this, the next file that is opened would get its descriptor
        # and, with it, whatever native code prints
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        print_error("standard output is closed; redirect it to a file or to /dev/null")
        return EXIT_USAGE
    try:
        status = _on_all_ranks(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader (head, less) has gone
        _discard_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:  # a full disk behind a redirection
        _discard_stdout()
        print_error(f"standard output: {_describe(error)}")
        return EXIT_USAGE


def _on_all_ranks(arguments: list[str]) -> int:
    """Run the command; under mpiexec on the first rank, for which the others evaluate models."""
    from alchemi_bridge.domain.ranks import launched_ranks

    # what torchrun starts has a process group of its own, also where Slurm started torchrun
    if launched_ranks() < 2 or "TORCHELASTIC_RUN_ID" in os.environ:
        return _run(arguments)
    from alchemi_bridge.domain import dismiss, follow, lead, world

    try:
        comm = world()
    except BridgeError as error:
        print_error(str(error))
        return EXIT_USAGE
    if comm is None:
        return _run(arguments)
    if comm.Get_rank() > 0:
        # an interrupt reaches all ranks; what comes of it is for the first to decide
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return follow(comm)
    lead(comm)
    status = EXIT_BUG
    try:
        status = _run(arguments)
    finally:
        dismiss(status)
    return status


def _discard_stdout() -> None:
    """Keep the interpreter from complaining at exit about what can not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(arguments: list[str]) -> int:
    try:
        args = _parse(arguments)
    except SystemExit as stop:  # argparse has printed help, version or a usage error
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    set_up_logging(-1 if args.quiet else args.verbose)
    try:
        with Interrupts():
            return int(args.run(args))
    except BridgeError as error:
        _show_traceback(args)
        print_error(str(in_words_of_the_command_line(error)))
        return EXIT_USAGE
    except BrokenPipeError:
        raise
    except OSError as error:  # a folder that can not be written, a full disk
        _show_traceback(args)
        print_error(_describe(error))
        return EXIT_USAGE
    except KeyboardInterrupt:
        print_error("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:
        _report_bug(args, error)
        return EXIT_BUG


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser(arguments)
    args, rest = parser.parse_known_args(arguments)
    # argparse takes a list of positional arguments in one go; options in between cut it off
    target = getattr(args, REST, None)
    if target and not any(word.startswith("-") for word in rest):
        getattr(args, target).extend(rest)
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with the module of only that command imported which is going to run."""
    parser = argparse.ArgumentParser(
        prog="alchemi-bridge",
        description="Metatomic models behind every MD engine.",
        parents=[global_options()],
        allow_abbrev=False,
        epilog="'alchemi-bridge COMMAND --help' tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"alchemi-bridge {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    # no global option takes a value, so that the first plain word is the command
    command = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == command:
            importlib.import_module(f"alchemi_bridge.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary, add_help=False)
    return parser


def _describe(error: OSError) -> str:
    what = f": '{error.filename}'" if error.filename else ""
    return f"{error.strerror or error}{what}"


def _show_traceback(args: argparse.Namespace) -> None:
    if args.debug:
        traceback.print_exc()
    else:
        LOGGER.debug("traceback", exc_info=True)


def _report_bug(args: argparse.Namespace, error: Exception) -> None:
    _show_traceback(args)
    print_error(f"this is a bug in alchemi_bridge: {type(error).__name__}: {error}")
    if args.debug:
        return
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="alchemi-bridge-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write(f"alchemi-bridge {__version__}\n{sys.argv}\n\n{traceback.format_exc()}")
    except OSError as log_error:
        LOGGER.log(logging.WARNING, "the traceback could not be written: %s", log_error)
    else:
        print_error(f"please report it with the traceback in {log.name}")


if __name__ == "__main__":
    sys.exit(main())

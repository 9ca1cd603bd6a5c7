"""Run decks, with the bridge and without, and compare: ``python integration/gromacs/run.py``.

Prints a table, and ends with status 1 if a limit is missed. Decks are chosen by name; --list names
them.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import prepare
from decks import DECKS
from rich.console import Console
from rich.table import Table

from alchemi_bridge.engines import gromacs
from alchemi_bridge.errors import BridgeError

#: What a run needs of this folder.
FILES = ("*.mdp", "*.top", "*.dat")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("deck", nargs="*", help=f"some of {', '.join(DECKS)} (default: all)")
    parser.add_argument("--folder", type=Path, help="where to run, and to leave all files")
    parser.add_argument("--list", action="store_true", help="say what the decks are")
    settings = parser.parse_args(arguments)
    unknown = [name for name in settings.deck if name not in DECKS]
    if unknown:
        parser.error(f"no deck {unknown[0]}: there are {', '.join(DECKS)}")
    if settings.list:
        print("\n".join(f"{name:<16} {deck.__doc__}" for name, deck in DECKS.items()))
        return 0
    try:
        if settings.folder is not None:
            settings.folder.mkdir(parents=True, exist_ok=True)
            return run(settings.deck or list(DECKS), settings.folder)
        with tempfile.TemporaryDirectory() as folder:
            return run(settings.deck or list(DECKS), Path(folder))
    except BridgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(names: list[str], folder: Path) -> int:
    """Run decks in a folder; 0 if everything is within its limits."""
    program = gromacs.find()
    for pattern in FILES:
        for file in Path(__file__).resolve().parent.glob(pattern):
            shutil.copy(file, folder)
    with contextlib.chdir(folder):
        prepare.main()
    table = Table("deck", "", "bridge", "native", "error", "limit", "")
    missed = 0
    for name in names:
        for found in DECKS[name](folder, program):
            right = found.error <= found.limit
            missed += not right
            values = ["" if v is None else f"{v:.6f}" for v in (found.bridge, found.native)]
            verdict = "" if right else "MISSED"
            table.add_row(
                name, found.quantity, *values, f"{found.error:.1e}", f"{found.limit:.0e}", verdict
            )
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    print(f"GROMACS {program.version}: " + (f"{missed} missed" if missed else "all within limits"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

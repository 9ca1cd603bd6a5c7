"""Run the command line, in this process or as users do, and read back what it wrote."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk

from alchemi_bridge.cli.extxyz import write_frame
from alchemi_bridge.cli.main import main


@dataclass
class Run:
    """What a run left: exit status and output."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The JSON document, which must be all there is on stdout."""
        return json.loads(self.stdout)

    def failed_with(self, *words: str) -> None:
        """Assert a usage error: one ``error:`` line that holds all words, and no traceback."""
        assert self.status == 2, self.stderr
        assert "Traceback" not in self.stderr
        errors = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.stderr
        for word in ("expected", "got", *words):
            assert word in errors[0], f"{word!r} is not in {errors[0]!r}"
        assert self.stdout == ""


class Cli:
    """``cli(...)`` runs in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Run:
        self._capsys.readouterr()
        status = main([str(a) for a in arguments])
        captured = self._capsys.readouterr()
        return Run(status, captured.out, captured.err)


def as_user(*arguments: object, folder: Path | None = None) -> Run:
    """Run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "alchemi_bridge.cli.main", *(str(a) for a in arguments)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=folder,
        env=environment(),
    )
    return Run(done.returncode, done.stdout, done.stderr)


def environment() -> dict[str, str]:
    """Environment of a process that finds this checkout and uses one thread."""
    checkout = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def silicon(repeat: int = 1, rattle: float = 0.05, seed: int = 0) -> ase.Atoms:
    """A rattled silicon crystal of 8 repeat^3 atoms."""
    atoms = bulk("Si", cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(rattle, seed=seed)
    return atoms


def save(path: Path, *frames: ase.Atoms) -> Path:
    """Write frames, NaN and all, with every digit."""
    with path.open("w") as file:
        for atoms in frames:
            write_frame(file, atoms)
    return path


def with_nan(atoms: ase.Atoms) -> ase.Atoms:
    """A copy with one coordinate that is not a number."""
    atoms = atoms.copy()
    atoms.positions[0, 0] = np.nan
    return atoms


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def frames(path: Path) -> dict[int, ase.Atoms]:
    """Frames of a trajectory by step."""
    return {int(atoms.info["step"]): atoms for atoms in ase.io.read(path, ":")}

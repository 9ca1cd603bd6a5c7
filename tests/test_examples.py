"""Every example runs as a user would run it, stays short, and says what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MAX_LINES = 80

#: What the output of each example must hold.
EXPECTED = {
    "evaluate_with_ase.py": r"energy\s+-27\d\.\d+ eV",
    "many_systems.py": r"difference",
    "ml_region.py": r"surrounding untouched\s+True",
    "parallel_engine.py": r"step 100  energy -\d+\.\d+ eV  atoms of each rank \[\d+",
    "molecular_dynamics.py": r"1 pair searches|[1-9]\d* pair searches",
    "write_an_engine.py": r"100 steps, 10 lists, drift",
    "your_own_model.py": r"(?m)^passed$",
}


def _run(name: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:`torch.jit", str(EXAMPLES / name)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_examples_are_listed() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < MAX_LINES


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_runs(name: str, tmp_path: Path) -> None:
    assert re.search(EXPECTED[name], _run(name, tmp_path))


def test_engine_conserves_energy(tmp_path: Path) -> None:
    # float32 positions of about 1 nm are coarse to 6e-8 nm, forces of up to 2000 kJ/mol/nm: 100
    # steps of rounding and of the integrator stay below this, a wrong force or unit does not
    drift = float(re.search(r"drift (\S+)", _run("write_an_engine.py", tmp_path))[1])
    assert abs(drift) < 0.05


def test_batch_equals_single(tmp_path: Path) -> None:
    found = re.findall(r"difference (\S+) eV", _run("many_systems.py", tmp_path))
    assert len(found) == 9
    assert max(abs(float(value)) for value in found) < 1e-10

"""Files for nnpot in a C++ program with libtorch, without Python."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import nnpot_parts as parts
import numpy as np
import pytest
import torch

from alchemi_bridge import compiling
from alchemi_bridge.engines.nnpot.export import export

pytestmark = pytest.mark.slow  # torch's headers take half a minute

TORCH = Path(torch.__file__).parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The loader, compiled."""
    made = tmp_path_factory.mktemp("program") / "nnpot_loader"
    headers = [f"-I{TORCH / part}" for part in ("include", "include/torch/csrc/api/include")]
    libraries = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-Wl,--no-as-needed"]
    source = Path(__file__).with_name("nnpot_loader.cpp")
    command = [compiling.require_compiler(), "-std=c++20", "-O0", "-w", *headers, str(source)]
    command += ["-o", str(made), *libraries, "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return made


def text(arrays: dict[str, np.ndarray]) -> str:
    """Inputs as the program reads them."""
    pairs, shifts = arrays.get("atom-pairs"), arrays.get("pair-shifts")
    x = arrays["atom-positions"]
    numbers = [len(x), *x.ravel(), *arrays["atom-numbers"], *arrays["box"].ravel()]
    if pairs is None or shifts is None:
        numbers.append(-1)
    else:
        numbers.append(len(pairs))
        for pair, shift in zip(pairs, shifts, strict=True):
            numbers += [*pair, *shift]
    return " ".join(f"{n:.9g}" for n in numbers)


def run(program: Path, file: Path, stdin: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    return subprocess.run(
        [str(program), str(file)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**kept, **environment, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("libraries", ["paths", "names"])
@pytest.mark.parametrize("contract", ["2025", "2026"])
def test_energy_and_forces(
    program: Path, model_file: Callable, tmp_path: Path, contract: str, libraries: str
) -> None:
    model = model_file("lennard-jones", **parts.OPTIONS)
    exported = export(model, tmp_path / "lj.pt", contract=contract, libraries=libraries)
    atoms = parts.argon_tilted()
    arrays = parts.argon_inputs(atoms, contract)
    search = {}
    if libraries == "names":
        search["LD_LIBRARY_PATH"] = ":".join(str(file.parent) for file in exported.libraries)
    done = run(program, exported.path, text(arrays), **search)
    assert done.returncode == 0, done.stderr
    found = np.array(done.stdout.split(), dtype=np.float64).reshape(4, -1)
    for step in found:
        parts.expect_argon(step[0], step[1:].reshape(-1, 3), atoms)


def test_an_error_says_what_to_do(program: Path, model_file: Callable, tmp_path: Path) -> None:
    """It is a std::runtime_error, the only kind that GROMACS 2026 catches."""
    exported = export(model_file("lennard-jones", **parts.OPTIONS), tmp_path / "lj.pt")
    arrays = parts.atom_inputs(parts.argon_tilted())
    arrays["atom-numbers"][2] = 79
    done = run(program, exported.path, text(arrays))
    assert done.returncode == 1
    assert "expected atomic numbers among [18, 36]" in done.stderr
    assert "leave these atoms out of nnpot-input-group" in done.stderr

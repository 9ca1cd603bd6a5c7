"""Every example runs as a user would run it, stays short, and says what it should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import ase
import numpy as np
import pytest
from kernel_parts import needs_compiler

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.engines import plugins
from alchemi_bridge.engines.nvalchemi_version import missing
from alchemi_bridge.ensembles.fit.problem import read_fit

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

#: The same for those that take long without arguments.
WITH_ARGUMENTS = {
    "fit_lj.py": (
        ("--steps", "2", "--md-steps", "60"),
        r"(?m)^sigma +3\.400000  2\.890000 .* %\n[2-4] simulations in 2 steps$",
    )
}

#: The same for those that need nvalchemi, which warns of its own.
WITH_NVALCHEMI = {"nvalchemi_dynamics.py": r"(?m)^     3    108 .* \d\d\.\d$"}

#: This one is for several ranks, see test_nvalchemi_pipeline_ranks.py.
RANKS = {"nvalchemi_pipeline.py"}


def _run(name: str, folder: Path, *arguments: str, warnings: str = "error") -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            warnings,
            "-W",
            "ignore:`torch.jit",
            str(EXAMPLES / name),
            *arguments,
        ],
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
    assert {p.name for p in EXAMPLES.glob("*.py")} == {
        *EXPECTED,
        *WITH_ARGUMENTS,
        *WITH_NVALCHEMI,
        *RANKS,
    }


@pytest.mark.parametrize("name", sorted({*EXPECTED, *WITH_ARGUMENTS, *WITH_NVALCHEMI, *RANKS}))
def test_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < MAX_LINES


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_runs(name: str, tmp_path: Path) -> None:
    assert re.search(EXPECTED[name], _run(name, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WITH_ARGUMENTS))
def test_runs_with_arguments(name: str, tmp_path: Path) -> None:
    arguments, expected = WITH_ARGUMENTS[name]
    assert re.search(expected, _run(name, tmp_path, *arguments))


def test_configuration_beside_the_example_fits(tmp_path: Path) -> None:
    """What --write-target writes is what the configuration beside the example reads."""
    _run("fit_lj.py", tmp_path, "--write-target", "--md-steps", "20")
    shutil.copy(EXAMPLES / "fit_lj.toml", tmp_path)
    found = read_fit(tmp_path / "fit_lj.toml")
    assert [one.name for one in found.simulators] == ["liquid.0", "liquid.1"]
    assert found.objectives[0].targets[0].value.shape == (80,)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WITH_NVALCHEMI))
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_runs_with_nvalchemi(name: str, tmp_path: Path) -> None:
    assert re.search(WITH_NVALCHEMI[name], _run(name, tmp_path, warnings="ignore"))


@pytest.mark.slow
def test_engine_conserves_energy(tmp_path: Path) -> None:
    # float32 positions of about 1 nm are coarse to 6e-8 nm, forces of up to 2000 kJ/mol/nm: 100
    # steps of rounding and of the integrator stay below this, a wrong force or unit does not
    drift = float(re.search(r"drift (\S+)", _run("write_an_engine.py", tmp_path))[1])
    assert abs(drift) < 0.05


def test_batch_equals_single(tmp_path: Path) -> None:
    found = re.findall(r"difference (\S+) eV", _run("many_systems.py", tmp_path))
    assert len(found) == 9
    assert max(abs(float(value)) for value in found) < 1e-10


# --- in C ----------------------------------------------------------------------------------------


needs_shared_python = pytest.mark.skipif(
    plugins.shared_python() is None, reason="this Python has no shared library"
)


@pytest.fixture(scope="module")
def c_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled as strictly as a compiler can be asked to."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    program = tmp_path_factory.mktemp("c") / "c_engine"
    flags = ["-std=gnu99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    include = f"-I{(plugins.folder() / plugins.HEADER).parent}"
    source = str(EXAMPLES / "c_engine.c")
    subprocess.run(
        [compiler, *flags, include, source, "-o", str(program), "-ldl", "-lm"], check=True
    )
    return program


def run_c(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process without Python, which is to find the environment of these tests by itself."""
    settings = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "VIRTUAL_ENV")}
    # an environment in which the package is not installed finds it as these tests do
    settings["PYTHONPATH"] = os.pathsep.join([str(EXAMPLES.parent), *filter(None, sys.path)])
    return subprocess.run(
        [str(program), *map(str, arguments)],
        env=settings,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def argon_model(model_file: Callable[..., Path]) -> Path:
    return model_file("lennard-jones", types=[18], epsilon=[0.0104], sigma=[3.4], cutoff=6.5)


def c_crystal() -> ase.Atoms:
    """The crystal of the example, by its own words: three cells along each axis, of four atoms."""
    a = 5.3
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cells = np.stack(np.meshgrid(*[range(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    return ase.Atoms(
        numbers=[18] * 108, positions=(a * (cells + corners)).reshape(-1, 3), cell=[3 * a] * 3,
        pbc=True,
    )  # fmt: skip


@needs_compiler
@needs_shared_python
def test_c_engine(c_engine: Path, argon_model: Path) -> None:
    done = run_c(c_engine, plugins.shim(), argon_model)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = re.findall(r"step +(\d+) potential (\S+) total (\S+) eV", done.stdout)
    assert [int(step) for step, _, _ in lines] == [0, 50, 100, 150, 200]
    totals = np.array([float(total) for _, _, total in lines])
    assert np.ptp(totals) < 1e-4
    # it moves: the energy goes to and fro between its two kinds
    assert all(abs(float(a[1]) - float(b[1])) > 1e-3 for a, b in pairwise(lines))
    atoms = c_crystal()
    atoms.calc = BridgeCalculator(argon_model, device="cpu")
    assert f"{atoms.get_potential_energy():.9f}" == lines[0][1]


@needs_compiler
@needs_shared_python
def test_c_engine_says_what_is_wrong(c_engine: Path, tmp_path: Path, argon_model: Path) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_text("no model")
    for model in (bad, tmp_path / "none.pt"):
        done = run_c(c_engine, plugins.shim(), model)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("error 4: ")
        assert model.name in done.stderr
        assert "expected" in done.stderr
    assert run_c(c_engine).stderr == "usage: c_engine LIBRARY MODEL\n"
    for arguments, word in (((), "usage"), ((tmp_path / "no.so", argon_model), "no.so")):
        done = run_c(c_engine, *arguments)
        assert done.returncode == 1
        assert word in done.stderr


@needs_compiler
@needs_shared_python
def test_c_engine_in_an_environment(
    c_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter that is started is that of the environment, not that of its base."""
    home = tmp_path / "an environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = next((home / "lib").glob("python*/site-packages"))
    package = site / "alchemi_bridge" / "engines" / "interface"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "table.py").write_text("import sys\nraise ImportError(f'not in {sys.prefix}')\n")
    monkeypatch.setattr(sys, "executable", str(python))
    library = plugins.shim()
    settings = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(c_engine), str(library), "model.pt"],
        env=settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"alchemi_bridge can not be used in the Python of {python}" in done.stderr
    assert f"not in {home}" in done.stderr


def test_c_engine_is_short() -> None:
    lines = (EXAMPLES / "c_engine.c").read_text().splitlines()
    assert len(lines) < MAX_LINES
    assert max(map(len, lines)) <= 110

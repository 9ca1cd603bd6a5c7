"""Bad input to the ASE calculator and to the command line.

The calculator's cache holds no results of other atoms after an error; the command line exits with
status 2 and one line, never with a traceback.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from bad_files import FILES, refused, with_record
from feature_parts import crystal, molecule, zoo_file
from metatensor.torch import Labels

from alchemi_bridge import (
    BridgeCalculator,
    load_model,
)
from alchemi_bridge import errors as e
from alchemi_bridge.errors import BridgeError

# The same model on the same atoms: nothing but the order of sums may differ.
SAME = 1e-12

ModelFile = Callable[..., Path]


# --- the ASE calculator -------------------------------------------------------------------------


@pytest.fixture
def calculator() -> BridgeCalculator:
    return BridgeCalculator(zoo_file("pair"))


def _attached(calculator: BridgeCalculator) -> ase.Atoms:
    atoms = crystal()
    atoms.calc = calculator
    atoms.get_potential_energy()
    return atoms


CHANGES: dict[str, tuple[Callable[[ase.Atoms], None], type[BridgeError]]] = {
    "unknown species": (lambda a: a.numbers.__setitem__(0, 54), e.SpeciesError),
    "NaN": (lambda a: a.positions.__setitem__(0, np.nan), e.NonFiniteError),
    "overlap": (lambda a: a.positions.__setitem__(0, a.positions[1]), e.OverlapError),
    "singular cell": (lambda a: a.set_cell([[4, 0, 0], [8, 0, 0], [0, 0, 4]]), e.CellError),
    "zero vector": (lambda a: a.set_cell([4, 4, 0]), e.CellError),
    "lost atom": (lambda a: a.positions.__setitem__(0, 1e200), e.InputError),
}


@pytest.mark.parametrize("name", CHANGES)
def test_calculator_forgets_results_when_it_fails(calculator: BridgeCalculator, name: str) -> None:
    atoms = _attached(calculator)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    change, kind = CHANGES[name]
    bad = atoms.copy()
    change(bad)
    bad.calc = calculator
    for _ in range(2):  # a second time, ASE says that nothing has changed since the failure
        with refused(kind):
            bad.get_potential_energy()
        assert calculator.results == {}
    with refused(kind):
        bad.get_forces()
    with refused(kind):
        calculator.calculate(bad)
    with refused(kind):
        calculator.get_property("energy", bad)
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=SAME)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=SAME)


def test_calculate_by_hand_leaves_nothing_behind(calculator: BridgeCalculator) -> None:
    atoms = _attached(calculator)
    calculator.calculate(atoms)
    other = crystal()
    other.numbers[1] = 54
    with refused(e.SpeciesError):
        calculator.calculate(other)
    with refused(e.SpeciesError):
        calculator.get_property("energy", other)
    assert calculator.uncertainty is None
    with refused(e.ProtocolError, "atoms"):
        BridgeCalculator(zoo_file("pair")).calculate()


def test_refused_property_does_not_hide_new_atoms(calculator: BridgeCalculator) -> None:
    atoms = _attached(calculator)
    other = molecule()
    other.calc = calculator
    with pytest.raises(PropertyNotImplementedError):
        other.get_stress()
    fresh = molecule()
    fresh.calc = BridgeCalculator(zoo_file("pair"))
    assert other.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), rel=SAME)
    assert atoms.get_potential_energy() != pytest.approx(other.get_potential_energy(), rel=1e-3)


def test_properties_that_are_not_there(calculator: BridgeCalculator) -> None:
    atoms = _attached(calculator)
    for name in ("dipole", "charges", "magmom", "stresses", "no such property"):
        with pytest.raises(PropertyNotImplementedError):
            calculator.get_property(name, atoms)
        with pytest.raises(BridgeError, match=name):
            calculator.calculate(atoms, [name])
        with pytest.raises(BridgeError, match=name):
            calculator.evaluate([atoms], [name])
    whole = BridgeCalculator(zoo_file("per_system_only"))
    assert "energies" not in whole.implemented_properties
    atoms.calc = whole
    atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energies()
    nothing = BridgeCalculator(zoo_file("no_energy"))
    assert nothing.implemented_properties == []
    atoms.calc = nothing
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energy()
    with refused(e.UnsupportedOutputError, "without one"):
        nothing.compute_energy(atoms)


def test_set_and_todict(calculator: BridgeCalculator) -> None:
    with refused(e.ConfigurationError, r"set\(device\)", "new BridgeCalculator"):
        calculator.set(device="cuda")
    assert calculator.set() == {}
    assert BridgeCalculator.fromdict(json.loads(json.dumps(calculator.todict()))).loaded
    in_memory = BridgeCalculator(load_model(zoo_file("pair")).module)
    with refused(e.ProtocolError, "a model in memory"):
        BridgeCalculator.fromdict(in_memory.todict())


def test_run_model(calculator: BridgeCalculator) -> None:
    atoms = crystal()
    with refused(e.UnsupportedOutputError, "'feature'"):
        calculator.run_model(atoms, ["feature"])
    for selected in (
        Labels(["system", "atom"], torch.tensor([[0, 4]])),
        Labels(["system", "atom"], torch.tensor([[1, 0]])),
        Labels(["system", "atom"], torch.tensor([[-1, 0]])),
        Labels(["atom"], torch.tensor([[0]])),
        torch.tensor([[0, 0]]),
        [0],
    ):
        with refused(e.InputError, "selected_atoms"):
            calculator.run_model(atoms, ["energy"], selected)
    # a model without a default variant of the energy can be asked for one of them
    several = BridgeCalculator(zoo_file("only_variants"), variants={"energy": "a"})
    assert list(several.run_model(atoms, ["energy/b"])) == ["energy/b"]


def test_inputs_from_ase() -> None:
    atoms = crystal()
    atoms.calc = BridgeCalculator(zoo_file("extra_inputs", "ase_array"))
    with refused(e.MissingInputError, r"atoms.arrays\['foo'\]", "positions"):
        atoms.get_potential_energy()
    atoms.set_array("foo", np.zeros((4, 2)))
    with refused(e.ShapeError, "foo"):
        atoms.get_potential_energy()
    atoms.arrays["foo"] = np.array(["a"] * 4)
    with refused(e.MissingInputError, "numbers"):
        atoms.get_potential_energy()
    atoms.arrays["foo"] = np.array([0, 0, np.inf, 0])
    with refused(e.NonFiniteError, "foo"):
        atoms.get_potential_energy()
    atoms.arrays["foo"] = np.zeros(4)
    atoms.get_potential_energy()

    atoms.calc = BridgeCalculator(zoo_file("extra_inputs", "ase_info"))
    with refused(e.MissingInputError, r"atoms.info\['field'\]"):
        atoms.get_potential_energy()
    for value in ("strong", 1j, [[1], [2, 3]], 10**400, {"x": 1}):
        atoms.info["field"] = value
        for _ in range(2):
            with refused(e.MissingInputError, "numbers"):
                atoms.get_potential_energy()
    atoms.info["field"] = None
    with refused(e.NonFiniteError, "field"):
        atoms.get_potential_energy()
    atoms.info["field"] = [1.0, 2.0]
    with refused(e.ShapeError, "field"):
        atoms.get_potential_energy()
    atoms.info["field"] = 0.5
    atoms.get_potential_energy()


# --- the command line ---------------------------------------------------------------------------

_COMMAND = [sys.executable, "-m", "alchemi_bridge.cli.main"]


def _structures(folder: Path) -> dict[str, Path]:
    """Structure files, each with one fault."""
    made = {}
    for name, (change, _) in CHANGES.items():
        atoms = crystal()
        change(atoms)
        made[name] = folder / f"{name.replace(' ', '-')}.xyz"
        atoms.write(made[name], format="extxyz")
    for name, text in {"empty": "", "no structure": "hello\n", "cut": "4\n\nAr 0 0 0\n"}.items():
        made[name] = folder / f"{name.replace(' ', '-')}-file.xyz"
        made[name].write_text(text)
    made["missing"] = folder / "missing.xyz"
    return made


def _main(*arguments: str) -> tuple[int, str]:
    from alchemi_bridge.cli.main import main

    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        status = main(list(arguments))
    return status, stderr.getvalue()


def _complains(status: int, stderr: str, *patterns: str) -> None:
    assert status == 2, stderr
    assert "Traceback" not in stderr
    assert "bug in" not in stderr
    for pattern in ("error: ", *patterns):
        assert re.search(pattern, stderr), stderr


@pytest.mark.parametrize("name", FILES)
def test_cli_model_file(name: str, tmp_path: Path) -> None:
    make, pattern = FILES[name]
    model = str(make(tmp_path))
    good = tmp_path / "good.xyz"
    crystal().write(good)
    for command in (["inspect"], ["inspect", "--records-only"], ["inspect", "--json"]):
        _complains(*_main(*command, model), pattern)
    _complains(*_main("evaluate", model, str(good), "-o", str(tmp_path / "out.xyz")), pattern)
    md = ("md", model, str(good), "--temperature", "50", "-o", str(tmp_path / "run"))
    _complains(*_main(*md), pattern)


def test_cli_structures(tmp_path: Path) -> None:
    for name, path in _structures(tmp_path).items():
        arguments = ("evaluate", zoo_file("pair"), str(path), "-o", str(tmp_path / "out.xyz"))
        status, stderr = _main(*arguments)
        _complains(status, stderr)
        assert name in CHANGES or str(path) in stderr


def test_cli_options(tmp_path: Path) -> None:
    good = tmp_path / "good.xyz"
    crystal().write(good)
    out = ["--force", "-o", str(tmp_path / "out.xyz")]
    for options, pattern in (
        (["--device", "gpu"], "gpu"),
        (["--sha256", "0" * 64], "pinned"),
        (["--sha256", "abc"], "64 hexadecimal"),
        (["--variant", "hse"], "hse"),
        (["--variant", "=x"], "variant"),
        (["--non-conservative", "forces"], "non_conservative_force"),
        (["--non-conservative", "all"], "invalid choice"),
        (["--threads", "0"], "positive integer"),
        (["--no-such-option"], "no-such-option"),
    ):
        status, stderr = _main("evaluate", zoo_file("variants"), str(good), *out, *options)
        if pattern == "non_conservative_force":  # this model has them
            assert status == 0, stderr
            status, stderr = _main("evaluate", zoo_file("pair"), str(good), *out, *options)
        _complains(status, stderr, pattern)


def test_cli_in_a_process_of_its_own(tmp_path: Path) -> None:
    crafted = with_record(
        tmp_path, "extensions", json.dumps([{"name": "evil", "path": "/tmp/libevil.so"}])
    )
    bad = _structures(tmp_path)["NaN"]
    for arguments, pattern in (
        (["inspect", str(crafted)], "absolute path"),
        (["evaluate", zoo_file("pair"), str(bad), "-o", str(tmp_path / "o.xyz")], "finite"),
        (["inspect"], "MODEL"),
        (["no-such-command"], "no-such-command"),
    ):
        done = subprocess.run(
            [*_COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        _complains(done.returncode, done.stderr, pattern)
        assert done.stdout == ""

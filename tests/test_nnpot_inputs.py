"""Files for nnpot and inputs that are odd or wrong: grompp's trials, boxes, foreign elements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase
import nnpot_parts as parts
import numpy as np
import pytest
import torch
import zoo

from alchemi_bridge.engines.nnpot.export import export


@pytest.fixture(scope="module")
def argon(model_file: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return parts.argon_files(model_file, tmp_path_factory.mktemp("nnpot"))


def trial(n_atoms: int, number: int, line: bool, contract: str) -> list[torch.Tensor]:
    """Inputs with which grompp tries a model."""
    axes = 0.01 * np.outer(np.arange(1, n_atoms + 1), [1, 2, 3])
    first, second = np.triu_indices(n_atoms, 1)
    arrays = {
        "atom-positions": np.float32(axes if line else np.zeros((n_atoms, 3))),
        "atom-numbers": np.full(n_atoms, number, dtype=np.int32),
        "box": np.eye(3, dtype=np.float32),
        "pbc": np.array([True] * 3),
        "atom-pairs": np.column_stack([first, second]).astype(np.int32),
        "pair-shifts": np.zeros((len(first), 3), dtype=np.float32),
    }
    return parts.tensors(arrays, contract)


@pytest.mark.parametrize(
    ("n_atoms", "number", "line", "contract"),
    [
        (1, 1, False, "2025"),  # 2025: hydrogen, whatever the model is for
        (2, 18, False, "2025"),  # 2026.0 to 2026.3, without and with pairs
        (2, 18, False, "2026"),
        (1, 18, True, "2025"),  # main
        (1, 18, True, "2026"),
        (2, 18, True, "2026"),
        (2000, 18, True, "2025"),
        (300, 18, True, "2026"),
    ],
)
def test_grompp_tries_the_model(
    argon: dict[str, Path], n_atoms: int, number: int, line: bool, contract: str
) -> None:
    module = torch.jit.load(str(argon[contract]))
    energy, forces = module(*trial(n_atoms, number, line, contract))
    assert energy.shape == ()
    assert forces.shape == (n_atoms, 3)
    if not line:  # nothing but periodic images of atoms, which pull in all directions
        assert bool(torch.isfinite(energy))
        assert float(forces.abs().max()) < 1e-9
    # nothing of it is kept for the run
    assert module.searches == 0
    assert len(module.kept_first) == 0


def test_a_trial_with_an_element_that_the_model_lacks(argon: dict[str, Path]) -> None:
    module = torch.jit.load(str(argon["2026"]))
    with pytest.raises(torch.jit.Error, match="nnpot-link-type"):
        module(*trial(2, 1, False, "2026"))


def _listed(positions: np.ndarray, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    """``atom-pairs`` and ``pair-shifts`` of other positions (nm) of these atoms."""
    moved = atoms.copy()
    moved.positions = positions.astype(np.float64) * 10.0
    return parts.pair_inputs(moved, parts.CUTOFF + parts.BUFFER)


def spoilt(contract: str, what: str) -> list[torch.Tensor | None]:
    """Inputs of a slanted box with one thing wrong."""
    atoms = parts.argon_tilted()
    arrays = parts.atom_inputs(atoms)
    arrays.update(parts.pair_inputs(atoms, parts.CUTOFF + parts.BUFFER))
    if what == "element":
        arrays["atom-numbers"][3] = 14
    elif what == "no element":
        arrays["atom-numbers"][3] = -1
    elif what == "NaN":
        arrays["atom-positions"][5, 1] = np.nan
    elif what == "NaN in the box":
        arrays["box"][1, 1] = np.inf
    elif what == "flat box":
        arrays["box"][2] = 0.0
    elif what == "row":
        arrays["atom-pairs"][0, 0] = len(atoms)
    elif what == "one place":
        arrays["atom-positions"][20] = arrays["atom-positions"][7]
        arrays.update(_listed(arrays["atom-positions"], atoms))
    elif what == "swapped":
        arrays["atom-numbers"], arrays["box"] = arrays["box"], arrays["atom-numbers"]
    found: list[torch.Tensor | None] = list(parts.tensors(arrays, contract))
    if what == "box alone":
        found[-1] = None
    return found


@pytest.mark.parametrize(
    ("contract", "what", "words"),
    [
        ("2025", "element", "expected atomic numbers among [18, 36]"),
        ("2026", "element", "got [14]"),
        ("2025", "no element", "at.num"),
        ("2025", "NaN", "blown up"),
        ("2026", "NaN", "blown up"),
        ("2025", "NaN in the box", "box: expected finite numbers"),
        ("2025", "flat box", "without volume"),
        ("2025", "box alone", "both or neither"),
        ("2025", "swapped", "name the inputs as alchemi-bridge export printed them"),
        ("2026", "row", "expected rows of 64 atoms, got 0 to 64"),
        ("2025", "one place", "atoms 7 and 20 of nnpot-input-group (counted from 0)"),
        ("2026", "one place", "expected a distance of at least 0.0001 nm, got 0. nm"),
    ],
)
def test_bad_inputs(argon: dict[str, Path], contract: str, what: str, words: str) -> None:
    module = torch.jit.load(str(argon[contract]))
    with pytest.raises(torch.jit.Error) as raised:
        module(*spoilt(contract, what))
    assert "alchemi-bridge: " in str(raised.value)
    assert words in str(raised.value)


def test_results_that_are_no_numbers(models: Callable, tmp_path: Path) -> None:
    file = export(models("nan_energy"), tmp_path / "nan.pt").path
    atoms = parts.silicon()
    atoms.positions[1] = atoms.positions[0] + [0.3, 0.0, 0.0]
    with pytest.raises(torch.jit.Error, match="got NaN or infinity; look for atoms"):
        torch.jit.load(str(file))(*parts.tensors(parts.atom_inputs(parts.rounded(atoms)), "2025"))


def test_a_device_that_the_model_does_not_run_on(tmp_path: Path) -> None:
    model = zoo.make(zoo.Pairs(), "cpu only", devices=("cpu",))
    module = torch.jit.load(str(export(model, tmp_path / "cpu.pt").path))
    meta = [
        tensor.to("meta") for tensor in parts.tensors(parts.atom_inputs(parts.silicon()), "2025")
    ]
    with pytest.raises(torch.jit.Error, match="GMX_NN_DEVICE"):
        module(*meta[:2])

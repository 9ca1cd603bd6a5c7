"""Files for GROMACS' nnpot: a loader that imitates GROMACS against oracles and the provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
import nnpot_parts as parts
import numpy as np
import pytest

from alchemi_bridge.engines.ase import BridgeCalculator
from alchemi_bridge.engines.nnpot.export import export
from alchemi_bridge.parity import oracles

#: Of a model in single precision each side adds up 1e2 to 1e3 terms in its own order.
RTOL_SINGLE = 5e-6


@dataclass
class Case:
    """A model and a structure."""

    model: str
    atoms: Callable[[], ase.Atoms]
    options: dict[str, Any] = field(default_factory=dict)
    contracts: tuple[str, ...] = ("2025", "2026")
    #: Keywords of both the exporter and the calculator.
    choose: dict[str, Any] = field(default_factory=dict)
    cutoff: float = 0.45  # nm
    rtol: float = parts.RTOL
    zoo: bool = False


SHORT_LJ = {"cutoff": 6.0}

CASES = {
    "lj": Case("lennard-jones", parts.argon_cubic, SHORT_LJ, cutoff=0.6),
    "lj-tilted": Case("lennard-jones", parts.argon_tilted, SHORT_LJ, cutoff=0.6),
    "lj-full-list": Case(
        "lennard-jones", parts.argon_tilted, {**SHORT_LJ, "full_list": True}, cutoff=0.6
    ),
    "lj-float32": Case(
        "lennard-jones",
        parts.argon_tilted,
        {**SHORT_LJ, "dtype": "float32"},
        cutoff=0.6,
        rtol=RTOL_SINGLE,
    ),
    # GROMACS makes no pair lists of more than half a box
    "lj-tiny": Case("lennard-jones", parts.argon_tiny, contracts=("2025",)),
    "sw": Case("stillinger-weber", parts.silicon),
    "sw-tiny": Case("stillinger-weber", lambda: parts.silicon(1), contracts=("2025",)),
    "sw-scattered": Case("stillinger-weber", parts.silicon_scattered),
    "sw-slab": Case("stillinger-weber", parts.slab),
    "sw-lonely": Case("stillinger-weber", parts.lonely),
    "net": Case("message-passing", parts.silicon),
    "net-float32": Case("message-passing", parts.silicon, {"dtype": "float32"}, rtol=RTOL_SINGLE),
    "net-molecule": Case("message-passing", parts.molecule),
    "net-subgroup": Case("message-passing", parts.subgroup),
    "two-lists": Case("several_cutoffs", parts.silicon, zoo=True),
    "half-list": Case("half_list", parts.silicon, zoo=True),
    "not-strict": Case("not_strict", parts.silicon, zoo=True),
    "nm": Case("nm_units", parts.silicon, zoo=True),
    "reads-positions": Case("reads_positions", parts.subgroup, zoo=True),
    "reads-cell": Case("reads_cell", parts.silicon, zoo=True),
    "differentiates": Case("internal_gradient", parts.silicon, zoo=True),
    "differentiates-pairs": Case("internal_pair_gradient", parts.subgroup, zoo=True),
    "constant": Case("constant_energy", parts.silicon, zoo=True, contracts=("2025",)),
    "per-system": Case("per_system_only", parts.silicon, zoo=True),
    "variant": Case("variants", parts.silicon, zoo=True, choose={"variants": {"energy": "pbe"}}),
    "direct-forces": Case(
        "non_conservative", parts.subgroup, zoo=True, choose={"non_conservative": True}
    ),
}
QUICK = {"lj-tilted", "lj-tiny", "sw-slab", "net-subgroup", "two-lists"}


def every(cases: dict[str, Case]) -> list:
    """Cases with their contracts as parameters; all but a few are slow."""
    return [
        pytest.param(name, contract, marks=[] if name in QUICK else [pytest.mark.slow])
        for name, case in cases.items()
        for contract in case.contracts
    ]


class Files:
    """Models and what they were exported to."""

    def __init__(self, folder: Path, models: Callable, model_file: Callable) -> None:
        self._folder, self._models, self._potentials = folder, models, model_file
        self._made: dict[tuple, Path] = {}

    def model(self, case: Case) -> Path:
        """The metatomic model."""
        if case.zoo:
            return self._models(case.model)
        return self._potentials(case.model, **case.options)

    def file(self, case: Case, contract: str) -> Path:
        """The file for GROMACS."""
        model = self.model(case)
        key = (model, contract, repr(case.choose))
        if key not in self._made:
            out = self._folder / f"{len(self._made)}.pt"
            self._made[key] = export(model, out, contract=contract, **case.choose).path
        return self._made[key]


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, models: Callable, model_file: Callable
) -> Files:
    return Files(tmp_path_factory.mktemp("nnpot"), models, model_file)


def inputs(case: Case, contract: str) -> dict[str, np.ndarray]:
    atoms = case.atoms()
    arrays = parts.atom_inputs(atoms)
    if contract == "2026":
        arrays.update(parts.pair_inputs(atoms, case.cutoff + parts.BUFFER))
    return arrays


class Answers:
    """What the loader says of each case: quick ones in one process, slow ones in another."""

    def __init__(self, files: Files, folder: Path) -> None:
        self._files, self._folder = files, folder
        self._found: dict[tuple[str, str], parts.Answer] = {}

    def __call__(self, name: str, contract: str) -> parts.Answer:
        if (name, contract) not in self._found:
            quick = name in QUICK
            group = [(n, c) for n in CASES for c in CASES[n].contracts if (n in QUICK) == quick]
            requests = [
                parts.Request(self._files.file(CASES[n], c), c, [inputs(CASES[n], c)] * 2)
                for n, c in group
            ]
            folder = self._folder / ("quick" if quick else "slow")
            self._found.update(zip(group, parts.run(requests, folder), strict=True))
        return self._found[name, contract]


@pytest.fixture(scope="module")
def answers(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return Answers(files, tmp_path_factory.mktemp("loader"))


def compare(
    answer: parts.Answer, call: int, energy: float, forces: np.ndarray, rtol: float
) -> None:
    """Against energy and forces in eV and Å."""
    assert answer.energies[call] == pytest.approx(energy * parts.ENERGY, rel=rtol, abs=rtol)
    scale = max(1.0, np.abs(forces).max() * parts.FORCE)
    assert np.abs(answer.forces[call] - forces * parts.FORCE).max() < rtol * scale


def reference(files: Files, case: Case, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy and forces of the provider."""
    choose = dict(case.choose)
    if choose.pop("non_conservative", False):
        choose["non_conservative"] = "forces"
    atoms = atoms.copy()
    atoms.calc = BridgeCalculator(files.model(case), uncertainty_threshold=None, **choose)
    return atoms.get_potential_energy(), atoms.get_forces()


@pytest.mark.parametrize(("name", "contract"), every(CASES))
def test_against_the_provider(files: Files, answers: Answers, name: str, contract: str) -> None:
    case = CASES[name]
    answer = answers(name, contract)
    assert answer.errors == []
    energy, forces = reference(files, case, case.atoms())
    compare(answer, 0, energy, forces, case.rtol)
    compare(answer, 1, energy, forces, case.rtol)  # TorchScript's second call is compiled anew
    if contract == "2026":
        assert (answer.lists, answer.refused, answer.searches) == (1, 0, 0)
    else:
        assert answer.searches == 1


@pytest.mark.parametrize(
    ("name", "contract"), every({name: case for name, case in CASES.items() if not case.zoo})
)
def test_against_an_oracle(answers: Answers, name: str, contract: str) -> None:
    case = CASES[name]
    options = {k: v for k, v in case.options.items() if k == "cutoff"}
    atoms = case.atoms()
    atoms.cell[~atoms.pbc] = 0.0
    expected = oracles.build(case.model, **options).evaluate(atoms)
    compare(answers(name, contract), 0, expected.energy, expected.forces, case.rtol)

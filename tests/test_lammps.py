"""The pair style in LAMMPS against LAMMPS' own, on one and several ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import scipy.constants as si
from lammps_parts import ROOT, export_models, problems
from lammps_runs import needs_lammps
from mpi_runs import run_ranks, slow

from alchemi_bridge import BridgeCalculator

pytestmark = needs_lammps

#: eV/Å^3 in bar.
BAR = si.eV / si.angstrom**3 / si.bar

#: Relative to the largest number of its kind, in float64. Sums of some hundred terms in another
#: order differ by 1e-14; a hundred steps of dynamics amplify that by three orders of magnitude.
SAME = 1e-10

#: A coordinate after these steps, Å.
SAME_PLACE = 1e-9

#: Energy per atom of one model on several ranks, eV.
SAME_ENERGY = 1e-9

#: Conversions of units: LAMMPS' box and metatomic's factors know the constants of nature to this.
CONSTANTS = 1e-8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lammps")
    export_models(made)
    return made


def found_by(program: str, n_ranks: int, folder: Path) -> Any:
    done = run_ranks(n_ranks, ROOT / "tests" / f"lammps_{program}.py", folder, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:]
    return json.loads((folder / f"{program}-{n_ranks}.json").read_text())


def serial(program: str, folder: Path) -> Any:
    """On one rank; computed once."""
    if not (folder / f"{program}-1.json").exists():
        found_by(program, 1, folder)
    return json.loads((folder / f"{program}-1.json").read_text())


def same_state(a: dict[str, Any], b: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        assert np.abs(x - y).max() <= SAME * np.abs(y).max(), name


@pytest.mark.parametrize("n_ranks", [*map(slow, (2, 4, 3))])
def test_agreement(n_ranks: int, folder: Path) -> None:
    """Energy, forces and pressure of lj/cut and sw, before and after 100 steps; the net alone.

    On one rank, too: that is what the net on several is compared with.
    """
    alone, found = serial("agreement", folder), found_by("agreement", n_ranks, folder)
    for ranks in (alone, found):
        twins = ranks["twins"]
        assert len(twins) == 8
        for case, when in ((c, w) for c in twins for w in ("begin", "end")):
            for name, value in twins[case][when].items():
                limit = SAME_PLACE if name == "positions" else SAME
                assert value <= limit, (case, when, name)
    assert len(found["nets"]) == 12
    for case, values in found["nets"].items():
        expected = alone["nets"][case.removesuffix("-off").removesuffix("-on") + "-on"]
        per_atom = abs(values["energy"] - expected["energy"]) / len(values["energies"])
        assert per_atom <= SAME_ENERGY, case
        same_state(values, expected, ("forces", "energies", "pressure"))
    nets_in_ase({name: net for name, net in alone["nets"].items() if "net-c" in name}, folder)


def nets_in_ase(nets: dict[str, Any], folder: Path) -> None:
    """The serial reference of the above against the bridge behind ASE, for the same crystal."""
    for case, values in nets.items():
        low, high, xy, yz, xz = values["box"]
        a, b, c = np.subtract(high, low)
        atoms = ase.Atoms(
            "Si" * len(values["energies"]),
            np.array(values["positions"]),
            cell=[[a, 0, 0], [xy, b, 0], [xz, yz, c]],
            pbc=True,
        )
        atoms.calc = BridgeCalculator(folder / "net.pt", device="cpu")
        assert atoms.get_potential_energy() == pytest.approx(values["energy"], rel=SAME), case
        forces = np.array(values["forces"])
        assert np.abs(atoms.get_forces() - forces).max() <= SAME * np.abs(forces).max(), case


# --- features -------------------------------------------------------------------------------------


def all_small(value: Any) -> None:
    for name, one in value.items():
        assert one <= (SAME_PLACE if name == "positions" else SAME), (name, one)


def of_each(value: Any) -> None:
    for one in value.values():
        all_small(one)


def units(value: Any) -> None:
    for name, one in value.items():
        assert one == pytest.approx(value["metal"], rel=CONSTANTS), name


def minimisation(value: Any) -> None:
    assert value["bridge"] == pytest.approx(value["native"], rel=SAME)
    assert value["bridge-fmax"] < 1e-6  # what it was asked for ends at 1e-8 of the norm


def restart(value: Any) -> None:
    assert value["after"] == pytest.approx(value["before"], rel=SAME)


def keywords(value: Any) -> None:
    plain = value["plain"]
    for name, factor in (("scaled", -2.5), ("pbe", 2.0), ("energy", 3.0), ("checked", 1.0)):
        expected = {key: factor * np.asarray(plain[key]) for key in plain}
        same_state(value[name], expected, ("energy", "forces", "pressure"))
    direct, derived = value["forces"], value["derived"]
    same_state(direct, derived, ("energy", "pressure"))
    assert np.abs(np.sum(direct["forces"], axis=0)).max() < 1e-9  # the net force is taken out
    assert np.abs(np.subtract(direct["forces"], derived["forces"])).max() > 0.01


def uncertainty(value: Any) -> None:
    told = [line for line in value.splitlines() if "uncertainty of 3 atoms" in line]
    assert len(told) == 1, "above the first threshold, below the second"
    assert {"106", "107", "108"} <= set(told[0].replace(",", " ").replace(":", " ").split())
    assert told[0].startswith("WARNING: pair style alchemi")


ERRORS = {
    "types": "for each of 1 atom types (or NULL, in hybrid styles), got 4 arguments",
    "element": "an atomic number that the model knows (18), or NULL, got 79 for type 1",
    "all NULL": "at least one atomic number",
    "no model": "expected an existing file",
    "no arguments": "expected the path of a metatomic model",
    "odd": "expected a value after each keyword, got none after device",
    "keyword": "got 'colour'",
    "no energy": "expected a model with an energy output",
    "inputs": "asks for charge",
    "units": "expected units metal, real, si or electron, got units lj",
    "exclude": "neigh_modify exclude",
    "stale": "neigh_modify every 1 delay 0 check yes",
    "after an error": "expected a model, got none",
    "lost": "Lost atoms",
    "energies": "energy of each atom: expected a model whose output 'energy' is per atom",
}


def errors(n_ranks: int) -> Any:
    expected = dict(ERRORS)
    if n_ranks == 1:
        expected["ghosts"] = expected["multi"] = ""
        expected["virials"] = (
            "virial of each atom: expected a model whose energy depends on the pair"
        )
    else:
        expected["multi"] = "expected neighbor style bin or nsq"
        # cutoff 4, three layers, skin 1, and a hundredth of both
        expected["ghosts"] = "expected ghost atoms as far as 13.13 (interaction range 12, skin 1"
        expected["virials"] = f"expected a model with a finite interaction range on {n_ranks} ranks"

    def check(value: Any) -> None:
        assert set(value) == set(expected)
        for name, text in expected.items():
            assert text in value[name], name
            assert value[name].startswith("ERROR") == bool(text), name

    return check


def special_bonds(value: Any) -> None:
    assert "special_bonds that leave out bonded ones" in value["zero"]
    assert value["one"] == pytest.approx(value["free"], rel=SAME)
    assert value["tiny"] == pytest.approx(value["free"], rel=SAME)


def fails_on_one_rank(value: Any) -> None:
    assert "pair style alchemi" in value
    assert "atoms 2 and 1" in value or "atoms 1 and 2" in value
    assert "expected a distance of at least" in value


def exclusions_of_others(value: Any) -> None:
    assert value[1] == pytest.approx(value[0], rel=SAME)


def two_models(value: Any) -> None:
    assert value["both"] == pytest.approx(value["sum"], rel=SAME)


def single_precision(value: Any) -> None:
    """Energies per atom of the net in float32 and float64."""
    single, double = value
    assert single == pytest.approx(double, abs=1e-5)
    assert single != double


def as_serial(name: str, n_ranks: int, folder: Path) -> Any:
    """On several ranks what there is on one; and that there are empty ones."""

    def check(value: Any) -> None:
        expected = serial("features", folder)[name]
        assert set(value) == set(expected)
        for case, one in value.items():
            same_state(one, expected[case], ("energy", "forces", "pressure", "positions"))
            if "least" in one and n_ranks > 1:
                assert one["least"] == 0

    return check


def direct_stress(n_ranks: int, folder: Path) -> Any:
    def check(value: Any) -> None:
        if n_ranks > 1:
            text = f"expected a stress that is derived from the energy on {n_ranks} ranks"
            assert text in value["error"]
            return
        assert value["error"] == ""
        positions = np.array(value["positions"])
        atoms = ase.Atoms("Si" * len(positions), positions, cell=[12.0] * 3, pbc=True)
        atoms.calc = BridgeCalculator(folder / "non_conservative.pt", non_conservative=True)
        pressure = -atoms.get_stress() * BAR
        order = [0, 1, 2, 5, 4, 3]  # ASE's yz, xz, xy
        np.testing.assert_allclose(value["pressure"], pressure[order], rtol=1e-6)
        same_state({"f": atoms.get_forces()}, {"f": value["forces"]}, ("f",))

    return check


@pytest.mark.parametrize("n_ranks", [slow(2), slow(4)])
def test_features(n_ranks: int, folder: Path) -> None:
    """On one rank, too, with which some are compared."""
    alone, found = serial("features", folder), found_by("features", n_ranks, folder)
    assert not problems(alone, checks_of_features(1, folder))
    assert not problems(found, checks_of_features(n_ranks, folder))


def checks_of_features(n_ranks: int, folder: Path) -> dict[str, Any]:
    return {
        "units": units,
        "per_atom": all_small,
        "constant_pressure": all_small,
        "constant_pressure_triclinic": all_small,
        "fast_deformation": all_small,
        "migration": all_small,
        "minimisation": minimisation,
        "overlay": all_small,
        "restart": restart,
        "small_box": as_serial("small_box", n_ranks, folder),
        "empty_ranks": as_serial("empty_ranks", n_ranks, folder),
        "slab": of_each,
        "plane": all_small,
        "types_change_between_lists": all_small,
        "exclusions_of_others": exclusions_of_others,
        "two_models": two_models,
        "single_precision": single_precision,
        "keywords": keywords,
        "direct_stress": direct_stress(n_ranks, folder),
        "uncertainty": uncertainty,
        "errors": errors(n_ranks),
        "special_bonds": special_bonds,
        "fails_on_one_rank": fails_on_one_rank,
    }


# --- cost -----------------------------------------------------------------------------------------

#: Microseconds of the processor beside the provider's own in a step of LAMMPS that does not search,
#: by number of atoms: 45 and 280 were measured on two shared cores of an AMD EPYC, of which 30 and
#: 130 are the pair style's and the rest LAMMPS' own.
OUTSIDE = {"864": 100.0, "10976": 600.0}

#: MiB in 10,000 steps: less than a page of the list for each search.
GROWTH = 1.0


@pytest.mark.slow
def test_cost(folder: Path) -> None:
    found = found_by("cost", 1, folder)
    for atoms, limit in OUTSIDE.items():
        assert found[atoms] < limit, atoms
    assert found["growth"] < GROWTH

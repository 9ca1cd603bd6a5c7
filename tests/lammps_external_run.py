"""The model behind fix external, against LAMMPS' own potential; a program of its own for MPI.

Arguments: model files of Lennard-Jones with lj/cut's truncation, and of Stillinger-Weber.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from alchemi_bridge.engines import lammps_library
from alchemi_bridge.engines.lammps_external import UNITS, attach
from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    EvaluationError,
    OverlapError,
    SpeciesError,
)
from alchemi_bridge.units import conversion_factor

LJ, SW = sys.argv[1], sys.argv[2]
EPSILON, SIGMA, CUTOFF = 0.01042332, 3.40, 8.5
PRESSURES = ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz")

START = """
units {units}
atom_style atomic
atom_modify map array
lattice fcc {lattice!r}
{region}
create_box 2 box
create_atoms 1 box
mass * {mass!r}
{displace}
set group all type/fraction 2 0.4 8765
velocity all create {temperature} 87287 mom yes rot no dist gaussian
neighbor {skin!r} bin
neigh_modify every 1 delay 0 check yes
timestep {step!r}
thermo 10
"""


def started(units: str = "metal", region: str = "region box block 0 4 0 4 0 4") -> Any:
    """Warm argon in a box, in some units."""
    lmp = lammps_library.start()
    length = conversion_factor("angstrom", UNITS[units].length)
    numbers = {
        # mass of argon, and 2 fs
        "metal": (39.948, 0.002),
        "real": (39.948, 2.0),
        "si": (39.948 * 1.66053906660e-27, 2e-15),
        "electron": (39.948, 2.0),
    }
    mass, step = numbers[units]
    lmp.commands_string(
        START.format(
            units=units,
            lattice=5.4 * length,
            region=region + " units lattice",
            mass=mass,
            # LAMMPS' displacements are in lattice units, as the region
            displace="displace_atoms all random 0.05 0.05 0.05 4321 units lattice",
            temperature=60.0,
            skin=2.0 * length,
            step=step,
        )
    )
    return lmp


def native(lmp: Any, units: str = "metal", cutoff: float = CUTOFF) -> None:
    length = conversion_factor("angstrom", UNITS[units].length)
    energy = conversion_factor("eV", UNITS[units].energy)
    lmp.command(f"pair_style lj/cut {cutoff * length!r}")
    lmp.command(f"pair_coeff * * {EPSILON * energy!r} {SIGMA * length!r}")


def with_model(lmp: Any, units: str = "metal", **options: Any) -> Any:
    length = conversion_factor("angstrom", UNITS[units].length)
    lmp.command(f"pair_style zero {CUTOFF * length!r}")
    lmp.command("pair_coeff * *")
    return attach(lmp, LJ, [18, 18], **options)


def state(lmp: Any) -> dict[str, np.ndarray]:
    """What a run ends with, by the atoms' numbers."""
    return {
        "pe": np.array([lmp.get_thermo("pe")]),
        "press": np.array([lmp.get_thermo(name) for name in PRESSURES]),
        "vol": np.array([lmp.get_thermo("vol")]),
        "x": np.ctypeslib.as_array(lmp.gather_atoms("x", 1, 3)).copy(),
        "v": np.ctypeslib.as_array(lmp.gather_atoms("v", 1, 3)).copy(),
        "f": np.ctypeslib.as_array(lmp.gather_atoms("f", 1, 3)).copy(),
    }


def agree(found: dict[str, np.ndarray], known: dict[str, np.ndarray], relative: float) -> None:
    for name, value in known.items():
        scale = np.abs(value).max()
        error = np.abs(found[name] - value).max() / scale
        assert error <= relative, (name, error, scale)


def compared(
    run: Callable[[Any], None],
    units: str = "metal",
    relative: float = 1e-10,
    region: str = "region box block 0 4 0 4 0 4",
    **options: Any,
) -> Any:
    """The same run with LAMMPS' own potential and with the model."""
    one, two = started(units, region), started(units, region)
    native(one, units)
    run(one)
    model = with_model(two, units, **options)
    run(two)
    agree(state(two), state(one), relative)
    one.close()
    return two, model


def nve(lmp: Any, steps: int = 50) -> None:
    lmp.command("fix move all nve")
    lmp.command("thermo_style custom step pe press pxx pyy pzz pxy pxz pyz vol")
    lmp.command(f"run {steps}")


def in_every_unit() -> None:
    """50 steps: energy, pressure tensor, forces, positions and velocities."""
    for units in UNITS:
        # LAMMPS' own constants for kcal/mol, J and Hartree have nine digits or so, and so has its
        # Boltzmann constant: only metal needs no constant at all
        lmp, model = compared(nve, units, relative=1e-10)
        assert model.provider.searches >= 1
        lmp.close()


def in_a_skewed_box_with_sorting() -> None:
    def run(lmp: Any) -> None:
        lmp.command("atom_modify sort 3 4.0")
        nve(lmp, 60)

    lmp, model = compared(run, region="region box prism 0 4 0 4 0 4 1.9 -1.1 1.3")
    tags = np.array(lmp.numpy.extract_atom("id"))[: lmp.get_natoms()]
    assert (np.diff(tags) < 0).any()  # sorted by place, not by number
    assert model.provider.searches < 20
    lmp.close()


def under_pressure() -> None:
    """The box changes in every step, and flips."""

    def run(lmp: Any) -> None:
        lmp.command("thermo_style custom step pe press pxx pyy pzz pxy pxz pyz vol")
        lmp.command("fix move all npt temp 60 60 0.1 tri 500 500 0.5")
        lmp.command("run 60")

    # chaos has a little more time to grow where the thermostat's sums are in it
    lmp, _ = compared(run, relative=1e-8, region="region box prism 0 4 0 4 0 4 1.9 -1.1 1.3")
    lmp.close()


def minimised() -> None:
    def run(lmp: Any) -> None:
        lmp.command("min_style cg")
        lmp.command("minimize 0 1e-4 20 60")

    lmp, _ = compared(run, relative=1e-6)
    lmp.close()


def energies_of_atoms() -> None:
    def run(lmp: Any) -> None:
        lmp.command("compute each all pe/atom")
        lmp.command("compute total all reduce sum c_each")
        lmp.command("thermo_style custom step pe c_total press")
        lmp.command("run 0 post no")

    one, two = started(), started()
    native(one)
    run(one)
    with_model(two, energies=True)
    run(two)
    found = [np.ctypeslib.as_array(lmp.gather("c_each", 1, 1)) for lmp in (one, two)]
    np.testing.assert_allclose(found[1], found[0], atol=1e-13)
    one.close()
    two.close()


def a_region() -> None:
    """The model sees a group, or some types; LAMMPS' own potential acts on the others."""
    lmp = started()
    lmp.command("region low block INF INF INF INF 0 2 units lattice")
    lmp.command("group low region low")
    model = with_model(lmp, group="low")
    nve(lmp, 5)
    group = lmp.get_thermo("pe")
    inside = np.ctypeslib.as_array(lmp.gather_atoms("mask", 0, 1)) & 2 > 0
    forces = np.ctypeslib.as_array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3)
    assert 0 < inside.sum() < len(inside)
    assert not forces[~inside].any()
    assert forces[inside].any(axis=1).all()
    # the same by hand: the others taken away
    lmp.command("group rest subtract all low")
    lmp.command("delete_atoms group rest compress no")
    lmp.command("run 0 post no")
    assert abs(lmp.get_thermo("pe") - group) < 1e-12 * abs(group)
    model.detach()
    lmp.command("run 0 post no")
    assert lmp.get_thermo("pe") == 0.0
    # by type
    typed = attach(lmp, LJ, [None, 18])
    lmp.command("run 0 post no")
    assert group < lmp.get_thermo("pe") < 0.0
    typed.detach()
    lmp.close()


def atoms_come_and_go() -> None:
    one, two = started(), started()
    native(one)
    with_model(two)
    for lmp in (one, two):
        nve(lmp, 5)
        lmp.command("region ball sphere 1 1 1 1.2 units lattice")
        lmp.command("delete_atoms region ball compress no")
        lmp.command("run 5")
        lmp.command("set type 2 type 1")
        lmp.command("run 5")
    for name in ("pe", *PRESSURES):
        np.testing.assert_allclose(two.get_thermo(name), one.get_thermo(name), rtol=1e-9)
    one.close()
    two.close()


def errors_reach_the_user() -> None:
    """LAMMPS stops with the bridge's message, and goes on when the cause is gone."""
    lmp = started()
    model = with_model(lmp)
    nve(lmp, 2)
    x = lmp.numpy.extract_atom("x")
    kept = x[5].copy()
    x[5] = x[6]
    with pytest.raises(OverlapError, match="distance"):
        lmp.command("run 0 post no")
    x = lmp.numpy.extract_atom("x")
    x[5] = kept
    begin = lmp.extract_global("ntimestep")
    lmp.command("run 4")
    assert lmp.extract_global("ntimestep") == begin + 4
    with pytest.raises(Exception, match="Unknown command"):  # LAMMPS' own are as they were
        lmp.command("nonsense")

    # in the middle of a run: it ends there
    calls = []
    compute = model.provider.compute

    def fails(step: Any, out: Any) -> Any:
        calls.append(step)
        if len(calls) == 4:
            raise EvaluationError("the model", expected="numbers", got="none", fix="do something")
        return compute(step, out)

    model.provider.compute = fails
    begin = lmp.extract_global("ntimestep")
    with pytest.raises(EvaluationError, match="the model: expected numbers, got none"):
        lmp.command("run 100")
    assert lmp.extract_global("ntimestep") == begin + 3
    assert len(calls) == 4
    lmp.command("run 3 post no")
    assert lmp.extract_global("ntimestep") == begin + 6
    calls.clear()
    with pytest.raises(EvaluationError, match="the model"):
        lmp.command("minimize 0 1e-10 100 1000")
    assert len(calls) < 20
    model.provider.compute = compute
    lmp.command("run 3 post no")

    # also where LAMMPS' Python module finds its errors in another way
    calls.clear()
    calls.extend([None] * 3)
    model.provider.compute = fails
    lmp.__class__ = type(lmp).__mro__[1]
    with pytest.raises(Exception, match="alchemi_bridge: EvaluationError: the model: expected"):
        lmp.command("run 0 post no")
    lmp.close()


def refusals() -> None:
    with pytest.raises(ConfigurationError, match=r"a lammps\.lammps object"):
        attach(None, LJ, [18])
    lmp = started()
    with_model(lmp).detach()
    cases: list[tuple[type[BridgeError], str, dict[str, Any]]] = [
        (ConfigurationError, "2 atom types", {"types": [18]}),
        (ConfigurationError, "2 atom types", {"types": ["Ar", "Ar"]}),
        (ConfigurationError, "2 atom types", {"types": [None, None]}),
        (SpeciesError, "unknown types", {"types": [18, 79]}),
        (ConfigurationError, "one of all", {"group": "nobody"}),
        (ConfigurationError, "those of LAMMPS", {"units": UNITS["real"]}),
        (ConfigurationError, "a length", {"skin": -1.0}),
        (EvaluationError, "fix 1", {"fix_id": "1 2"}),
    ]
    for kind, message, options in cases:
        with pytest.raises(kind, match=message):
            attach(lmp, LJ, **{"types": [18, 18], **options})
    lmp.close()
    lmp = lammps_library.start()
    lmp.commands_string("units lj\nregion box block 0 9 0 9 0 9\ncreate_box 1 box")
    with pytest.raises(ConfigurationError, match="one of metal, real, si, electron"):
        attach(lmp, LJ, [18])
    lmp.close()


def silicon_with_a_free_surface() -> None:
    """A three-body potential, and a box that is not periodic."""
    text = """
units metal
boundary p p s
lattice diamond 5.431
region box block 0 3 0 3 0 2
create_box 1 box
create_atoms 1 box
mass 1 28.0855
displace_atoms all random 0.1 0.1 0.1 4321 units box
"""
    one, two = lammps_library.start(), lammps_library.start()
    for lmp in (one, two):
        lmp.commands_string(text)
    one.commands_string("pair_style sw\npair_coeff * * " + sys.argv[3] + " Si")
    two.commands_string("pair_style zero 5.0\npair_coeff * *")
    attach(two, SW, [14])
    for lmp in (one, two):
        nve(lmp, 30)
    agree(state(two), state(one), 1e-9)
    one.close()
    two.close()


if __name__ == "__main__":
    chosen = sys.argv[4:]
    for check in (
        in_every_unit,
        in_a_skewed_box_with_sorting,
        under_pressure,
        minimised,
        energies_of_atoms,
        a_region,
        atoms_come_and_go,
        errors_reach_the_user,
        refusals,
        silicon_with_a_free_surface,
    ):
        if not chosen or check.__name__ in chosen:
            check()
            print(check.__name__, "all right", flush=True)

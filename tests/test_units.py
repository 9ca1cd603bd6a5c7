"""Unit expressions, and typed errors for those that are none."""

from __future__ import annotations

import ase.units
import pytest

from alchemi_bridge.errors import BridgeError, UnitError
from alchemi_bridge.units import Units, conversion_factor

#: CODATA versions differ between metatomic and ASE in the ninth digit.
CODATA_TOLERANCE = 1e-7

#: metatomic takes powers of ten and products in float64.
ROUNDING = 1e-14


@pytest.mark.parametrize(
    ("unit", "angstrom"),
    [("angstrom", 1.0), ("A", 1.0), ("nm", 10.0), ("bohr", ase.units.Bohr), ("m", 1e10)],
)
def test_lengths(unit: str, angstrom: float) -> None:
    assert conversion_factor(unit, "angstrom") == pytest.approx(angstrom, rel=CODATA_TOLERANCE)
    assert conversion_factor("angstrom", unit) == pytest.approx(1 / angstrom, rel=CODATA_TOLERANCE)


@pytest.mark.parametrize(
    ("unit", "ev"),
    [
        ("eV", 1.0),
        ("meV", 1e-3),
        ("hartree", ase.units.Hartree),
        ("rydberg", ase.units.Rydberg),
        ("kcal/mol", ase.units.kcal / ase.units.mol),
        ("kJ/mol", ase.units.kJ / ase.units.mol),
        ("J", ase.units.J),
    ],
)
def test_energies(unit: str, ev: float) -> None:
    assert conversion_factor(unit, "eV") == pytest.approx(ev, rel=CODATA_TOLERANCE)


def test_compound_units() -> None:
    assert conversion_factor("(eV)/(angstrom)^3", "GPa") == pytest.approx(
        1.0 / ase.units.GPa, rel=CODATA_TOLERANCE
    )
    per_length = conversion_factor("kJ/mol/nm", "eV/angstrom")
    expected = conversion_factor("kJ/mol", "eV") / conversion_factor("nm", "angstrom")
    assert per_length == pytest.approx(expected, rel=ROUNDING)


def test_there_and_back() -> None:
    there, back = conversion_factor("bohr", "nm"), conversion_factor("nm", "bohr")
    assert there * back == pytest.approx(1.0, rel=ROUNDING)


@pytest.mark.parametrize("unit", ["angstrom", "eV", "kJ/mol/nm"])
def test_equal_expressions_are_exactly_one(unit: str) -> None:
    assert conversion_factor(unit, unit) == 1.0


@pytest.mark.parametrize("pair", [("", "eV"), ("eV", ""), ("  ", "eV"), ("", "")])
def test_empty(pair: tuple[str, str]) -> None:
    with pytest.raises(UnitError, match=r"expected a unit such as .*, got .*; name the unit"):
        conversion_factor(*pair)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("eV", "angstrom"), "dimension"),
        (("eV^2", "eV"), "dimension"),
        (("parrots", "eV"), "parrots"),
        (("eV", "parrots"), "parrots"),
        (("eV/", "eV"), "malformed"),
        (("(eV", "eV"), "got"),
    ],
)
def test_unknown_or_of_another_dimension(pair: tuple[str, str], reason: str) -> None:
    with pytest.raises(UnitError, match=reason) as caught:
        conversion_factor(*pair)
    assert f"conversion from '{pair[0]}' to '{pair[1]}'" in str(caught.value)
    assert "check the spelling" in caught.value.fix
    assert isinstance(caught.value, BridgeError)
    assert isinstance(caught.value, ValueError)


def test_units_of_an_engine() -> None:
    default, gromacs = Units(), Units(length="nm", energy="kJ/mol")
    assert (default.length, default.energy) == ("angstrom", "eV")
    assert conversion_factor(gromacs.force, default.force) == pytest.approx(
        conversion_factor("kJ/mol", "eV") / 10.0, rel=ROUNDING
    )
    assert conversion_factor(gromacs.pressure, "GPa") == pytest.approx(
        # 1 kJ/mol/nm^3 is 1.66053906660e6 Pa
        1.66053906660e-3,
        rel=CODATA_TOLERANCE,
    )


@pytest.mark.parametrize(
    "options",
    [{"length": "eV"}, {"energy": "angstrom"}, {"length": "parrots"}, {"energy": ""}],
)
def test_units_are_checked_when_made(options: dict[str, str]) -> None:
    with pytest.raises(UnitError):
        Units(**options)

"""What models want and have besides, through the C interface: inputs, warnings, requirements."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import c_callers as c
import numpy as np
import pytest
import torch
import zoo
from c_callers import BOX, cluster, evaluated, in_python

from alchemi_bridge import Atoms, Cell, MetatomicForceProvider, Search
from alchemi_bridge.contract import Quantity
from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface import table as table_module


def test_extra_inputs(tmp_path: Path) -> None:
    """Of atoms and of the system, kept or of one step, in other units."""
    positions = cluster()
    n = len(positions)
    charges = np.linspace(-1.0, 1.0, n)
    model = zoo.save(zoo.extra_inputs("charge"), tmp_path, "charge")
    with c.Engine(model, {"device": "cpu"}) as engine:
        needs = engine.requirements()
        assert needs.n_inputs == 1
        assert (needs.inputs[0], needs.input_units[0]) == (b"charge", b"e")
        given = c.inputs({"charge": (charges, "e")})
        engine.set_atoms(np.full(n, 6), **given)
        kept = charges.copy()
        charges[:] = np.nan  # copied
        plain = evaluated(engine, positions, "energies")["energies"]
        twice = c.inputs({"charge": (2.0 * kept, "e")})
        other = evaluated(engine, positions, "energies", **twice)["energies"]
        np.testing.assert_allclose(other - plain, 3.0 * zoo.COUPLING * kept**2, atol=1e-13)
    provider = MetatomicForceProvider(model, device="cpu", tuning=False)
    provider.set_atoms(Atoms(np.full(n, 6), inputs={"charge": Quantity(kept, "e")}))
    provider.set_pairs(Search(0.5), Cell.of(BOX))
    np.testing.assert_array_equal(in_python(provider, positions, BOX)["energies"], plain)
    model = zoo.save(zoo.extra_inputs("charge_and_spin"), tmp_path, "spin")
    for shape in [(1,)]:
        given = {"charge": np.full(shape, 2.0), "spin_multiplicity": np.full(shape, 3.0)}
        with c.Engine(model, {"device": "cpu"}) as engine:
            engine.set_atoms(
                np.full(n, 6),
                **c.inputs(
                    {
                        "charge": (given["charge"], "e"),
                        "spin_multiplicity": (given["spin_multiplicity"], ""),
                    }
                ),
            )
            added = evaluated(engine, positions, "energies")["energies"] - plain
        np.testing.assert_allclose(added, zoo.COUPLING * (13.0 - kept**2), atol=1e-13)


def heard() -> tuple[list[tuple[int, str]], Any]:
    """What a log was told, and the log."""
    told: list[tuple[int, str]] = []

    def log(user: int | None, level: int, text: bytes) -> None:
        assert user == 42
        told.append((level, text.decode()))

    return told, structs.LOG(log)


def test_ids_in_a_warning_through_the_log(tmp_path: Path) -> None:
    model = zoo.save(zoo.uncertain(), tmp_path, "uncertain")
    told, log = heard()
    positions = cluster()
    with c.Engine(model, {"device": "cpu"}, log=log, log_user=42) as engine:
        engine.set_atoms(np.full(12, 6), ids=np.arange(12) + 9_000_000_000)
        evaluated(engine, positions)
        assert len(told) == 1
        level, text = told[0]
        assert level == structs.WARNING
        assert "12 atoms" in text
        assert "atoms 9000000000, 9000000001" in text
        evaluated(engine, positions)
        assert len(told) == 2  # every time
    told.clear()
    settings = {"device": "cpu", "uncertainty_threshold": "off"}
    with c.Engine(model, settings, log=log, log_user=42) as engine:
        engine.set_atoms(np.full(12, 6))
        evaluated(engine, positions)
        assert told == []


def test_requirements(models: Callable[[str], Path]) -> None:
    options = {"length_unit": b"nm", "energy_unit": b"kJ/mol"}
    with c.Engine(models("pair"), {"device": "cpu"}, **options) as engine:
        needs = engine.requirements()
        assert (needs.memory, needs.device) == (structs.HOST, 0)
        assert needs.dtype == structs.NUMBER_OF_DTYPE[torch.float64]
        assert needs.pair_range == pytest.approx(0.3)
        assert needs.halo_range == pytest.approx(0.3)
        assert (needs.energies, needs.virials) == (1, 1)
        assert needs.types[: needs.n_types] == zoo.TYPES
        assert needs.n_inputs == 0
        assert b"Model: zoo: pair" in needs.description
        assert b"SHA-256" in needs.description
        # what was told before is still there after it was asked for again
        again = engine.requirements()
        first = ctypes.cast(needs.types, ctypes.c_void_p).value
        assert ctypes.cast(again.types, ctypes.c_void_p).value == first
    assert table_module._facts == {}


@pytest.mark.parametrize("name", ["infinite_range", "per_system_only", "internal_gradient"])
def test_requirements_of_other_models(name: str, tmp_path: Path) -> None:
    """What is said to be there can be had, and what is not is refused."""
    model = zoo.save(getattr(zoo, name)(), tmp_path, name)
    with c.Engine(model, {"device": "cpu"}) as engine:
        engine.set_atoms(np.full(12, 6))
        needs = engine.requirements()
        assert np.isinf(needs.halo_range) == (name == "infinite_range")
        assert needs.energies == (name != "per_system_only")
        assert needs.virials == (name != "internal_gradient")
        for buffer in ("energies", "virials"):
            # that a model reads positions is seen when it is evaluated
            if getattr(needs, buffer) and (name, buffer) != ("infinite_range", "virials"):
                evaluated(engine, cluster(), buffer)
                continue
            with pytest.raises(c.Failure) as caught:
                evaluated(engine, cluster(), buffer)
            assert caught.value.code == c.MODEL

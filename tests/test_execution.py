"""The direct way to a model's module: where it is taken, and where it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import feature_parts
import numpy as np
import pytest
import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import ModelOutput
from zoo_parts import wrap

from alchemi_bridge import MetatomicForceProvider
from alchemi_bridge.model.execution import Execution

#: The ways to call a model do the same sums.
SAME = 1e-12


def energies(value: float, name: str = "energy") -> dict[str, TensorMap]:
    values = torch.tensor([[value]], dtype=torch.float64)
    return {name: wrap(values, Labels(["system"], torch.tensor([[0]])), [], "energy")}


class FakeModel:
    """Records how it is called."""

    def __init__(self, direct: Callable[[], dict[str, TensorMap]] = lambda: energies(-3.0)) -> None:
        self.calls: list[str] = []
        self._direct = direct
        self._model_capabilities_outputs_names = ["energy", "energy/pbe"]

    def capabilities(self) -> Any:
        class Capabilities:
            outputs = {  # noqa: RUF012
                name: ModelOutput(unit="eV", sample_kind="system")
                for name in ("energy", "energy/pbe", "converted")
            }

        return Capabilities()

    def __call__(
        self, systems: list, options: Any, check_consistency: bool
    ) -> dict[str, TensorMap]:
        self.calls.append("checked" if check_consistency else "forward")
        return energies(-3.0)

    def module(self, systems: list, outputs: dict, selected: Any) -> dict[str, TensorMap]:
        self.calls.append("module")
        return self._direct()


def run(
    model: FakeModel, steps: int, *, converts: bool = False, check: bool = False, **requests: str
) -> Execution:
    """So many steps that ask for the energy, or for outputs in other units."""
    execution = Execution(model, "angstrom", torch.float64, converts)
    wanted = {
        name: ModelOutput(unit=unit, sample_kind="system")
        for name, unit in (requests or {"energy": "eV"}).items()
    }
    for _ in range(steps):
        found = execution.run([], wanted, None, check)
        assert float(found["energy"].block().values) == pytest.approx(-3.0, rel=1e-6)
    return execution


def test_forward_then_both_then_directly() -> None:
    model = FakeModel()
    execution = run(model, 4)
    assert model.calls == ["forward", "forward", "module", "module", "module"]
    assert execution.is_direct()


def test_a_single_structure_pays_nothing() -> None:
    model = FakeModel()
    assert not run(model, 1).is_direct()
    assert model.calls == ["forward"]


def test_rounding_is_no_difference() -> None:
    assert run(FakeModel(lambda: energies(-3.0 * (1.0 + 1e-12))), 3).is_direct()


def failing() -> dict[str, TensorMap]:
    raise ValueError("only forward prepares the systems")


@pytest.mark.parametrize(
    ("direct", "reason"),
    [
        (lambda: energies(-3.0e3), "differ"),
        (lambda: energies(-3.0 * (1.0 + 1e-6)), "differ"),
        (lambda: energies(float("nan")), "differ"),
        (lambda: energies(-3.0, "energy/pbe"), "differ"),
        (dict, "differ"),
        (failing, "it failed: ValueError"),
    ],
    ids=["units", "digits", "nan", "names", "nothing", "failing"],
)
def test_another_result_falls_back(
    direct: Callable[[], Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With one warning, and without trying again."""
    model = FakeModel(direct)
    with caplog.at_level(logging.WARNING):
        execution = run(model, 6)
    assert model.calls == ["forward", "forward", "module", *4 * ["forward"]]
    assert not execution.is_direct()
    (record,) = caplog.records
    assert record.name == "alchemi_bridge.model.execution"
    assert reason in record.getMessage()


@pytest.mark.parametrize(
    "options",
    [
        {"converts": True},
        {"energy": "meV"},
        {"energy": "eV", "converted": "eV"},
        {"energy": "eV", "zoo::unknown": ""},
    ],
    ids=["inputs", "unit", "old name", "unknown"],
)
def test_what_forward_converts_is_never_direct(
    options: dict, caplog: pytest.LogCaptureFixture
) -> None:
    model = FakeModel()
    assert not run(model, 5, **options).is_direct()
    assert model.calls == 5 * ["forward"]
    assert caplog.records == []


def test_checks_of_metatomic_are_in_forward() -> None:
    model = FakeModel()
    run(model, 5, check=True)
    assert model.calls == 5 * ["checked"]


def test_each_set_of_outputs_is_checked() -> None:
    model = FakeModel()
    execution = run(model, 3)
    for selected in (None, Labels(["system", "atom"], torch.zeros((0, 2), dtype=torch.int32))):
        for kind in ("system", "atom"):
            model.calls.clear()
            wanted = {"energy": ModelOutput(unit="eV", sample_kind=kind)}
            for _ in range(3):
                execution.run([], wanted, selected, False)
            known = selected is None and kind == "system"
            expected = ["module"] * 3 if known else ["forward", "forward", "module", "module"]
            assert model.calls == expected


# --- in a provider --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "direct"),
    [
        ("pair", {}, True),
        ("nm_units", {}, True),
        ("variants", {"variants": {"energy": "pbe"}}, True),
        ("extra_outputs", {"extra_outputs": ["zoo::dipole"]}, True),
        (
            "extra_outputs",
            {"extra_outputs": {"zoo::dipole": ModelOutput(unit="nm", sample_kind="atom")}},
            False,
        ),
        ("pair", {"check_consistency": True}, False),
    ],
)
def test_which_models_are_called_directly(name: str, options: dict, direct: bool) -> None:
    atoms = feature_parts.crystal()
    provider = MetatomicForceProvider(feature_parts.zoo_file(name), tuning=False, **options)
    feature_parts.prepare(provider, atoms)
    first = feature_parts.step(provider, atoms, energies=False)
    for _ in range(4):
        again = feature_parts.step(provider, atoms, energies=False)
        np.testing.assert_allclose(again.forces, first.forces, rtol=0, atol=SAME)
    assert provider.loaded.execution.is_direct() == direct


def test_a_model_that_is_never_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """It goes on through ``forward``, and says so once."""
    atoms = feature_parts.crystal()
    provider = MetatomicForceProvider(feature_parts.zoo_file("random"), tuning=False)
    feature_parts.prepare(provider, atoms)
    with caplog.at_level(logging.WARNING, logger="alchemi_bridge"):
        for _ in range(6):
            feature_parts.step(provider, atoms)
    assert not provider.loaded.execution.is_direct()
    assert len(caplog.records) == 1

"""Evaluate batches of frames: what is asked for, and what the model has of uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.stress import voigt_6_to_full_3x3_stress
from metatomic.torch import ModelOutput

from alchemi_bridge.cli.tensormaps import column_name, split_by_system
from alchemi_bridge.engines.ase import BridgeCalculator
from alchemi_bridge.errors import UnsupportedOutputError
from alchemi_bridge.model import plan_outputs


@dataclass
class Result:
    """One evaluated frame.

    Attributes
    ----------
    atoms
        The frame as it was read.
    arrays, info
        Columns and header entries for extended XYZ.
    summary
        JSON object: energy, energy per atom, largest force, pressure, largest uncertainty; None
        for what there is not.
    """

    atoms: Atoms
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


class Evaluator:
    """A model, and what to compute with it.

    Parameters
    ----------
    model
        Path of the model.
    options
        Keywords of :class:`~alchemi_bridge.engines.ase.BridgeCalculator`.
    energies
        Whether the energy of each atom is wanted.
    names
        Further outputs.

    Raises
    ------
    UnsupportedOutputError
        If the model lacks one of them, or has nothing to evaluate.
    """

    def __init__(
        self, model: str, options: Mapping[str, Any], energies: bool, names: Sequence[str]
    ) -> None:
        self._calculator = BridgeCalculator(model, **options)
        can = self._calculator.implemented_properties
        self._properties: list[str] = [
            name for name in ("energy", "forces", "stress") if name in can
        ]
        if energies:
            if "energies" not in can:
                raise UnsupportedOutputError(
                    "--energies",
                    expected="a model that gives the energy of each atom",
                    got="one that does not",
                    fix="leave --energies out",
                )
            self._properties.append("energies")
        capabilities = self._calculator.loaded.capabilities
        self._extra: dict[str, ModelOutput] = dict(plan_outputs(capabilities, extra=names).extra)
        self._extra |= self._statistics()
        if not self._properties and not self._extra:
            raise UnsupportedOutputError(
                "outputs of the model",
                expected="an energy, or outputs named with --output-name",
                got=f"none of them; the model has {', '.join(sorted(capabilities.outputs))}",
                fix="name the outputs to evaluate with --output-name",
            )

    @property
    def columns(self) -> dict[str, str]:
        """Names of the further outputs in the file, by the model's names."""
        return {name: column_name(name) for name in self._extra}

    def _statistics(self) -> dict[str, ModelOutput]:
        """Ensemble and uncertainty of the energy, per structure, for the variant in use.

        The uncertainty per atom, where the model has it, comes with the energy.
        """
        plan = self._calculator.provider.plan
        if plan.energy is None:
            return {}
        _, slash, variant = plan.energy.partition("/")
        outputs = self._calculator.loaded.capabilities.outputs
        wanted = ["energy_ensemble" + slash + variant]
        if plan.uncertainty is None:
            wanted.append("energy_uncertainty" + slash + variant)
        return {
            name: ModelOutput(unit="eV", sample_kind="system")
            for name in wanted
            if name in outputs and name not in self._extra
        }

    def evaluate(
        self, file: str, numbers: Sequence[int], batch: Sequence[Atoms]
    ) -> Iterator[Result]:
        """Evaluate a batch of frames.

        Parameters
        ----------
        file, numbers
            Where the frames come from, for the summary.
        batch
            The frames.

        Raises
        ------
        BridgeError
            Whatever is wrong with a frame or the model; nothing is yielded then.
        """
        found = self._calculator.evaluate(batch, self._properties)
        results = [Result(atoms) for atoms in batch]
        for result, values in zip(results, found, strict=True):
            _fill(result, values)
        if self._extra:
            maps = self._calculator.run_model(batch, self._extra)
            sizes = [len(atoms) for atoms in batch]
            for name, values in maps.items():
                for result, (arrays, info) in zip(
                    results, split_by_system(name, values, sizes), strict=True
                ):
                    result.arrays |= arrays
                    result.info |= info
        for result, number in zip(results, numbers, strict=True):
            _summarize(result, file, number)
        yield from results


def _fill(result: Result, values: Mapping[str, Any]) -> None:
    for name in ("forces", "energies"):
        if name in values:
            result.arrays[name] = values[name]
    if "uncertainty" in values:
        result.arrays["energy_uncertainty"] = values["uncertainty"]
    if "energy" in values:
        result.info["energy"] = values["energy"]
    if "stress" in values:
        result.info["stress"] = voigt_6_to_full_3x3_stress(values["stress"])


def _summarize(result: Result, file: str, number: int) -> None:
    atoms, arrays, info = result.atoms, result.arrays, result.info
    energy, forces = info.get("energy"), arrays.get("forces")
    uncertainty, stress = arrays.get("energy_uncertainty"), info.get("stress")
    result.summary = {
        "structure": file,
        "frame": number,
        "atoms": len(atoms),
        "formula": atoms.get_chemical_formula(),
        "energy_eV": energy,
        "energy_per_atom_eV": None if energy is None else energy / len(atoms),
        "max_force_eV_per_A": None
        if forces is None
        else float(np.linalg.norm(forces, axis=1).max()),
        # without the kinetic part: these are structures, not states of motion
        "pressure_GPa": None if stress is None else float(-np.trace(stress) / 3 / units.GPa),
        "max_uncertainty_eV": None if uncertainty is None else float(np.max(uncertainty)),
    }

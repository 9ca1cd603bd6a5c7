"""Between the bridge's results and options, and what ASE wants to see of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.stress import full_3x3_to_voigt_6_stress
from metatensor.torch import Labels
from metatomic.torch import ModelOutput

from alchemi_bridge.batch import StructureResult
from alchemi_bridge.errors import ConfigurationError, InputError
from alchemi_bridge.model import OutputPlan


def check_selection(selected: Labels | None, sizes: Sequence[int]) -> None:
    """Raise :class:`InputError` unless all ``["system", "atom"]`` are in systems of these sizes."""
    if selected is None:
        return
    is_labels = isinstance(selected, torch.ScriptObject) and hasattr(selected, "names")
    if is_labels and list(selected.names) == ["system", "atom"]:
        values = selected.values.cpu().long()
        limits = torch.tensor([*sizes, 0], device="cpu")
        known = (values[:, 0] >= 0) & (values[:, 0] < len(sizes))
        rows = torch.where(known, values[:, 0], len(sizes))
        if bool(((values[:, 1] >= 0) & (values[:, 1] < limits[rows])).all()):
            return
        got = "atoms that the structures do not have"
    else:
        got = "labels of another kind" if is_labels else type(selected).__name__
    raise InputError(
        "selected_atoms",
        expected="Labels(['system', 'atom'], ...) of atoms in these structures",
        got=got,
        fix="count systems and atoms from zero",
    )


def properties_of(plan: OutputPlan) -> list[str]:
    """ASE's names of what can be made from the outputs of a plan."""
    names = []
    if plan.energy is not None:
        names += ["energy", "free_energy"]
        if plan.energy_per_atom:
            names.append("energies")
    if plan.energy is not None or plan.force is not None:
        names.append("forces")
    if plan.energy is not None or plan.stress is not None:
        names.append("stress")
    return names


def ase_results(found: StructureResult, atoms: ase.Atoms) -> dict[str, Any]:
    """Results as ASE wants them: eV, eV/Å; the stress as (6,) Voigt, xx yy zz yz xz xy, eV/Å^3."""
    results: dict[str, Any] = {}
    if found.energy is not None:
        results["energy"] = results["free_energy"] = as_float(found.energy)
    if found.forces is not None:
        results["forces"] = as_array(found.forces)
    if found.virial is not None:
        stress = as_array(found.virial) / atoms.get_volume()
        results["stress"] = full_3x3_to_voigt_6_stress(stress)
    if found.energies is not None:
        results["energies"] = as_array(found.energies)
    if found.uncertainty is not None:
        results["uncertainty"] = as_array(found.uncertainty)
    return results


def model_outputs(outputs: Iterable[str] | Mapping[str, Any] | None) -> Any:
    """Names, or ``{name: ModelOutput}``; plain data of :meth:`todict` becomes ``ModelOutput``."""
    if outputs is None:
        return ()
    if isinstance(outputs, str):
        return (outputs,)
    if not isinstance(outputs, Mapping):
        return tuple(outputs) if isinstance(outputs, Iterable) else outputs
    try:
        return {
            name: ModelOutput(**request) if isinstance(request, Mapping) else request
            for name, request in outputs.items()
        }
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigurationError(
            "additional_outputs",
            expected="names, or names with the ModelOutput to request",
            got=repr(dict(outputs)),
            fix="pass {'feature': ModelOutput(sample_kind='atom')}, for example",
        ) from error


def plain_outputs(extra: Any) -> Any:
    if not isinstance(extra, Mapping):
        return list(extra)
    return {n: {"unit": r.unit, "sample_kind": r.sample_kind} for n, r in extra.items()}


def same_values(old: Any, new: Any) -> bool:
    if old is None or new is None:
        return old is new
    try:
        return bool(np.array_equal(np.asarray(old), np.asarray(new)))
    except (TypeError, ValueError):
        return False  # no arrays: let the evaluation say what is wrong with them


def as_array(values: torch.Tensor | None) -> np.ndarray:
    assert values is not None
    return values.detach().double().cpu().numpy()


def as_float(value: torch.Tensor | None) -> float:
    assert value is not None
    return float(value)

"""The atoms of an engine as the provider keeps them: checked, copied, on its device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from metatensor.torch import Labels

from alchemi_bridge.contract import Atoms, Quantity, index_tensor
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import ConfigurationError, SpeciesError
from alchemi_bridge.model import LoadedModel


class PreparedAtoms:
    """Atoms of an engine, checked and on the provider's device.

    ``nothing_to_do`` says that no atom's energy counts, so that the model need not be asked.
    """

    def __init__(self, atoms: Atoms, loaded: LoadedModel) -> None:
        device = loaded.device
        # copied first: the checks below wait for the device, and with it for this read
        types = read_types(atoms.types, device).clone()
        self.n_atoms = len(types)
        self.subset = None
        if atoms.subset is not None:
            self.subset = index_tensor(atoms.subset, "subset", self.n_atoms, device)
            types = types[self.subset]
        require_known_types(types, loaded)
        self.types = types.to(torch.int32)
        self.selected = None
        if atoms.selected is not None:
            rows = index_tensor(atoms.selected, "selected atoms", self.n_atoms, device)
            self.selected = _selection(rows, self.subset, self.n_atoms)
        counted = self.types if self.selected is None else self.selected
        self.nothing_to_do = len(counted) == 0
        self.inputs: Mapping[str, Quantity] = dict(atoms.inputs)
        self._names: torch.Tensor | None = None
        if atoms.names is not None:
            names = DeviceBuffer.of(atoms.names, "names of the atoms").tensor
            self._names = (
                DeviceBuffer(names)
                .require(
                    "names of the atoms",
                    shape=(self.n_atoms,),
                    dtypes=(torch.int32, torch.int64),
                    device=names.device,
                )
                .to(device, copy=True)
            )

    @property
    def seen_names(self) -> torch.Tensor | None:
        """(n_seen,) what to call the atoms that the model sees; ``None`` if they are 0, 1, ..."""
        if self._names is None:
            return self.subset
        return self._names if self.subset is None else self._names[self.subset]


def read_types(source: Any, device: torch.device) -> torch.Tensor:
    """Atomic types on the provider's device, int32 or int64; they may come from anywhere."""
    types = DeviceBuffer.of(source, "types").tensor
    return (
        DeviceBuffer(types)
        .require("types", shape=(None,), dtypes=(torch.int32, torch.int64), device=types.device)
        .to(device)
    )


def require_known_types(types: torch.Tensor, loaded: LoadedModel) -> None:
    """Raise :class:`SpeciesError` if the model does not know one of the types."""
    unknown = sorted(set(torch.unique(types).tolist()) - loaded.atomic_types)
    if unknown:
        raise SpeciesError(
            "atomic types",
            expected=f"types that the model knows ({sorted(loaded.atomic_types)})",
            got=f"unknown types {unknown}",
            fix="use a model that was made for these elements",
        )


def _selection(rows: torch.Tensor, subset: torch.Tensor | None, n_atoms: int) -> Labels:
    if subset is not None:
        place = torch.full((n_atoms,), -1, dtype=torch.int64, device=rows.device)
        place[subset] = torch.arange(len(subset), device=rows.device)
        rows = place[rows]
        if bool((rows < 0).any()):
            raise ConfigurationError(
                "selected atoms",
                expected="atoms of the subset that the model sees",
                got="atoms outside it",
                fix="select among the subset only",
            )
    values = torch.stack([torch.zeros_like(rows), rows], dim=1).to(torch.int32)
    return Labels(["system", "atom"], values, assume_unique=True)

# ruff: noqa: UP006, UP035, UP045  (TorchScript compares against typing's classes)
"""Small scripted models with the interface of DeePMD-kit's frozen models, and none of its code.

They stand in for frozen models where DeePMD-kit is not installed. Their energy is that of a pair
function with messages, ``reference`` gives it from plain loops. Run as a program it writes a file
whose code names one of DeePMD-kit's C++ operators, as files do that were frozen where these are
registered; the operator is declared in that process only.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch

RCUT = 3.5
TYPE_MAP = ["O", "H"]
BIAS = (-2.0, -1.0)
WEIGHT = (0.7, 0.3)
DEFINITIONS: dict[str, dict[str, Any]] = {
    "dpa1": {"type": "dpa1", "sel": 40, "rcut": RCUT, "attn_layer": 0},
    "dpa3": {"type": "dpa3", "repflow": {"e_rcut": RCUT, "nlayers": 2}},
    "se_e2_a": {"type": "se_e2_a", "sel": [20, 20], "rcut": RCUT},
    "dpa2": {"type": "dpa2"},
}


class Mask(torch.nn.Module):
    """A tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.type_mask = torch.ones(len(TYPE_MAP), dtype=torch.int32)

    def forward(self, types: torch.Tensor) -> torch.Tensor:
        """One for each atom."""
        return self.type_mask[types].to(types.device)


class Layers(torch.nn.Module):
    """Where the number of layers is found."""

    def __init__(self, nlayers: int) -> None:
        super().__init__()
        self.nlayers = nlayers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing."""
        return x


class Descriptor(torch.nn.Module):
    """Holds the layers and the mark of compressed models."""

    def __init__(self, nlayers: int, compress: bool) -> None:
        super().__init__()
        self.repflows = Layers(nlayers)
        self.compress = compress

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layers."""
        return self.repflows(x)


class OperatorDescriptor(Descriptor):
    """The same with a call of an operator that compressed models need."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layers, or the table."""
        if self.compress:
            x = torch.ops.deepmd.tabulate_fusion_se_a(
                x.contiguous(), x.contiguous(), x, x, int(x.shape[-1])
            )[0]
        return self.repflows(x)


class AtomicModel(torch.nn.Module):
    """Energies of the atoms."""

    def __init__(self, descriptor: torch.nn.Module, kind: str) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.mask = Mask()
        self.kind = kind
        self.rcut = RCUT
        self.register_buffer("bias", torch.tensor(BIAS, dtype=torch.float64))
        self.register_buffer("weight", torch.tensor(WEIGHT, dtype=torch.float64))

    @torch.jit.export
    def forward_common_atomic(
        self,
        extended_coord: torch.Tensor,
        extended_atype: torch.Tensor,
        nlist: torch.Tensor,
        mapping: Optional[torch.Tensor] = None,
        fparam: Optional[torch.Tensor] = None,
        aparam: Optional[torch.Tensor] = None,
        comm_dict: Optional[Dict[str, torch.Tensor]] = None,
        charge_spin: Optional[torch.Tensor] = None,
    ) -> Dict[str, torch.Tensor]:
        """Energies of the local atoms of one frame."""
        types, lists = extended_atype[0], nlist[0]
        n_local = lists.shape[0]
        x = self.descriptor(extended_coord)[0]
        index = torch.where(lists >= 0, lists, 0)
        vectors = x[index] - x[:n_local].unsqueeze(1)
        distance = (vectors * vectors).sum(dim=2)
        distance = torch.where(lists >= 0, distance, self.rcut**2)
        w = (1.0 - distance / self.rcut**2).clamp(min=0.0).pow(3)
        message = (w * self.weight[types[index]]).sum(dim=1)
        energy = message.square() + self.bias[types[:n_local]]
        if self.kind == "dpa3":
            assert mapping is not None
            energy = energy + (w * message[mapping[0][index]]).sum(dim=1)
            energy = energy + w[:, 0]  # the nearest neighbour stands first
        energy = energy * self.mask(types[:n_local])
        return {"energy": energy.reshape(1, -1, 1)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Not used."""
        return self.descriptor(x)


class FrozenModel(torch.nn.Module):
    """The model as DeePMD-kit freezes it."""

    def __init__(
        self,
        atomic_model: torch.nn.Module,
        definition: dict[str, Any],
        **facts: Any,
    ) -> None:
        super().__init__()
        self.atomic_model = atomic_model
        self.model_def_script = json.dumps(definition)
        self.global_pt_float_precision = int(facts.get("precision", 7))
        self.n_fparam = int(facts.get("n_fparam", 0))
        self.rcut = RCUT
        self.messages = bool(facts.get("messages", False))
        sel = (
            definition["descriptor"].get("sel") if isinstance(definition["descriptor"], dict) else 0
        )
        self.sel: List[int] = list(sel) if isinstance(sel, list) else [0]
        self.by_type = isinstance(sel, list)
        self.type_map: List[str] = list(definition["type_map"])

    @torch.jit.export
    def get_model_def_script(self) -> str:
        """The definition."""
        return self.model_def_script

    @torch.jit.export
    def get_type_map(self) -> List[str]:
        """Names of the types."""
        return self.type_map

    @torch.jit.export
    def get_rcut(self) -> float:
        """Cutoff."""
        return self.rcut

    @torch.jit.export
    def get_dim_fparam(self) -> int:
        """Number of frame parameters."""
        return self.n_fparam

    @torch.jit.export
    def get_dim_aparam(self) -> int:
        """Number of atomic parameters."""
        return 0

    @torch.jit.export
    def has_message_passing(self) -> bool:
        """Whether messages are passed."""
        return self.messages

    @torch.jit.export
    def format_nlist(
        self,
        extended_coord: torch.Tensor,
        extended_atype: torch.Tensor,
        nlist: torch.Tensor,
        extra_nlist_sort: bool = False,
    ) -> torch.Tensor:
        """Neighbour lists, by distance if that is asked for; the first ``sel`` of each type."""
        n_local = nlist.shape[1]
        x = extended_coord[0]
        lists = nlist[0]
        if extra_nlist_sort:
            vectors = x[torch.where(lists >= 0, lists, 0)] - x[:n_local].unsqueeze(1)
            distance = torch.where(lists >= 0, vectors.square().sum(dim=2), 1e9)
            lists = torch.gather(lists, 1, torch.argsort(distance, dim=1))
        if self.by_type:
            kinds = extended_atype[0][torch.where(lists >= 0, lists, 0)]
            for kind, most in enumerate(self.sel):
                mine = (lists >= 0) & (kinds == kind)
                lists = torch.where(mine & (mine.to(torch.int64).cumsum(1) > most), -1, lists)
        return lists.unsqueeze(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Not used."""
        return self.atomic_model(x)


def definition_of(kind: str, **changes: Any) -> dict[str, Any]:
    """Section ``model`` of a stand-in."""
    return {"type_map": TYPE_MAP, "descriptor": DEFINITIONS[kind], "fitting_net": {}, **changes}


def frozen(
    kind: str = "dpa1", *, operators: bool = False, compress: bool = False, **changes: Any
) -> torch.jit.RecursiveScriptModule:
    """A scripted stand-in; ``changes`` of its definition, or ``facts`` of the model."""
    facts = changes.pop("facts", {})
    definition = definition_of(kind, **changes)
    make = OperatorDescriptor if operators else Descriptor
    atomic = AtomicModel(make(2 if kind == "dpa3" else 1, compress), kind)
    model = FrozenModel(atomic, definition, messages=kind == "dpa3", **facts)
    for part in model.modules():
        # the archive has DeePMD-kit's code below this name
        if type(part).__module__ in (__name__, "__main__"):
            type(part).__module__ = "deepmd.standin"
    return torch.jit.script(model.eval())


def save(path: Path, kind: str = "dpa1", *, modifier: str = "", **options: Any) -> Path:
    """Write a stand-in as ``dp --pt freeze`` does."""
    torch.jit.save(frozen(kind, **options), str(path), {"data_modifier.pth": modifier})
    return path


def nearest(
    types: list[int], rows: list[list[tuple[int, float]]], sel: list[int]
) -> list[list[tuple[int, float]]]:
    """The rows with the ``sel`` nearest of each type."""
    kept = []
    for row in rows:
        by_distance = sorted(row, key=lambda entry: entry[1])
        kept.append([])
        for kind, most in enumerate(sel):
            kept[-1] += [entry for entry in by_distance if types[entry[0]] == kind][:most]
    return kept


def reference(kind: str, types: list[int], rows: list[list[tuple[int, float]]]) -> np.ndarray:
    """Energies of the atoms from (neighbour, distance) of each, in plain loops."""

    def w(r: float) -> float:
        return max(0.0, 1.0 - (r / RCUT) ** 2) ** 3

    message = [math.fsum(w(r) * WEIGHT[types[j]] for j, r in row) for row in rows]
    energies = []
    for i, row in enumerate(rows):
        energy = BIAS[types[i]] + message[i] ** 2
        if kind == "dpa3":
            energy += math.fsum(w(r) * message[j] for j, r in row)
            energy += max((w(r) for _, r in row), default=0.0)
        energies.append(energy)
    return np.array(energies)


if __name__ == "__main__":
    library = torch.library.Library("deepmd", "DEF")
    library.define(
        "tabulate_fusion_se_a(Tensor a, Tensor b, Tensor c, Tensor d, int e) -> Tensor[]"
    )
    save(Path(sys.argv[1]), sys.argv[2], operators=True, compress=sys.argv[3] == "compressed")

"""metatomic models for nvalchemi's batched dynamics (https://github.com/NVIDIA/nvalchemi-toolkit).

Needs the extra ``nvalchemi``; other versions than those that were tested are refused on import.
"""

from __future__ import annotations

import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NoReturn

import torch
from metatensor.torch import TensorMap
from metatomic.torch import ModelOutput

from alchemi_bridge.batch import BatchGeometry, Systems
from alchemi_bridge.batch.finite import require_finite_systems
from alchemi_bridge.engines.nvalchemi_batch import (
    BatchReader,
    atomic_data,
    make_batch,
    preallocate,
    prime,
    require_periodic,
)
from alchemi_bridge.engines.nvalchemi_cells import CellHook
from alchemi_bridge.engines.nvalchemi_fused import SystemsHook
from alchemi_bridge.engines.nvalchemi_lists import ListGuard, explained, read_list
from alchemi_bridge.engines.nvalchemi_outputs import values_of
from alchemi_bridge.engines.nvalchemi_version import require_tested
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.model import Evaluation, Wanted, evaluate
from alchemi_bridge.model.outputs import NonConservative
from alchemi_bridge.model.tuning import Tuner, possible_modes
from alchemi_bridge.pairs import FullPairs
from alchemi_bridge.provider import UNTUNED, MetatomicForceProvider, own_autograd_mode
from alchemi_bridge.uncertainty import warn_if_uncertain
from alchemi_bridge.units import conversion_factor

require_tested()

# isort: split
from nvalchemi.data import AtomicData, Batch  # noqa: E402  (only versions that were tested)
from nvalchemi.models.base import (  # noqa: E402
    BaseModelMixin,
    ModelConfig,
    NeighborConfig,
    NeighborListFormat,
)

__all__ = [
    "CellHook",
    "MetatomicModel",
    "SystemsHook",
    "atomic_data",
    "make_batch",
    "preallocate",
    "prime",
]

#: What nvalchemi calls the quantities that have a place in its batches.
STANDARD = ("energy", "forces", "stress")


class MetatomicModel(torch.nn.Module, BaseModelMixin):
    """Any metatomic model behind nvalchemi's model contract.

    A whole batch is one call of the model. Energies in eV, lengths in Å; results have the dtype of
    the batch's positions, whatever the model's own precision is.

    Parameters
    ----------
    model
        Path of a metatomic model, a model in memory, or a
        :class:`~alchemi_bridge.model.LoadedModel`.
    device
        Device to run on, where batches must be; the model's first choice by default.
    stress
        Compute the stress, too, which variable cells need: every system must then be periodic in
        three directions. Later ``set_config("active_outputs", ...)`` changes it.
    neighbors
        ``"own"``: the model searches, and keeps the list of each system until it might miss a pair,
        also while other systems leave the batch and come. ``"batch"``: it takes the COO
        list that nvalchemi's ``NeighborListHook`` or ``compute_neighbors`` put into the batch.
        Every one is compared with a list of the model's own, because nvalchemi 0.2 leaves pairs out
        when cells change or batches are refilled; so this is never the faster way.
    skin
        How far the lists reach beyond the model's cutoff, in Å.
    variants, non_conservative, uncertainty_threshold, extra_outputs, extensions_directory, sha256,
    check_consistency, gradient, tuning
        See :class:`~alchemi_bridge.provider.MetatomicForceProvider`. ``extra_outputs`` are among
        the outputs of :meth:`forward` by their own names, (n_atoms, ...) or (n_systems, ...), if
        they have one block; all are in :attr:`additional_outputs`.

    Attributes
    ----------
    model_config
        nvalchemi's description of the model.
    provider
        The provider with the loaded model.
    additional_outputs
        ``{name: TensorMap}`` of the last call.
    uncertainty
        (n_atoms,) in eV of the last call, ``None`` if the model has none.

    Notes
    -----
    The module has no parameters: a model stays on the device that it was loaded on. Threads that
    share one take turns, and ``additional_outputs`` and ``uncertainty`` are those of whoever was
    last. It can be copied (``copy.deepcopy``), but not pickled.
    """

    model_config: ModelConfig

    def __init__(
        self,
        model: Any,
        *,
        device: str | torch.device | None = None,
        stress: bool = False,
        neighbors: Literal["own", "batch"] = "own",
        skin: float = 1.0,
        variants: Mapping[str, str | None] | None = None,
        non_conservative: NonConservative = False,
        uncertainty_threshold: float | None = 0.1,
        extra_outputs: Iterable[str] | Mapping[str, ModelOutput] = (),
        extensions_directory: str | os.PathLike[str] | None = None,
        sha256: str | None = None,
        check_consistency: bool = False,
        gradient: Literal["auto", "leaves", "strain"] = "auto",
        tuning: bool = True,
    ) -> None:
        super().__init__()
        self.provider = MetatomicForceProvider(
            model,
            device=device,
            variants=variants,
            non_conservative=non_conservative,
            uncertainty_threshold=uncertainty_threshold,
            extra_outputs=extra_outputs,
            extensions_directory=extensions_directory,
            sha256=sha256,
            check_consistency=check_consistency,
            gradient=gradient,
        )
        loaded = self.provider.loaded
        _require_options(neighbors, skin, loaded.requested_inputs)
        self._threshold = uncertainty_threshold
        self._length = conversion_factor("angstrom", loaded.length_unit)
        self._energy = conversion_factor(loaded.energy_unit, "eV")
        self._reader = BatchReader(loaded.device)
        self._geometry = BatchGeometry(loaded, length=self._length, skin=float(skin))
        self._guard = ListGuard(loaded, length=self._length, skin=float(skin))
        modes = possible_modes(may_be_uncut=False) if tuning else [UNTUNED]
        self._tuner = Tuner(modes, loaded.device)
        self._turns = threading.Lock()
        self.additional_outputs: dict[str, TensorMap] = {}
        self.uncertainty: torch.Tensor | None = None
        outputs = {*STANDARD, *self.provider.plan.extra}
        config = None
        if neighbors == "batch":
            cutoff = loaded.cutoff / self._length
            config = NeighborConfig(cutoff=cutoff, format=NeighborListFormat.COO, skin=skin)
        self.model_config = ModelConfig(
            outputs=frozenset(outputs),
            active_outputs=outputs if stress else outputs - {"stress"},
            # the gradient is taken inside: nvalchemi need not make leaves of the positions
            autograd_outputs=frozenset(),
            supports_pbc=True,
            needs_pbc=False,
            neighbor_config=config,
        )
        self.eval()  # dynamics never call it

    def __deepcopy__(self, memo: dict[int, Any]) -> MetatomicModel:
        made = object.__new__(type(self))
        memo[id(self)] = made
        state = {name: value for name, value in self.__dict__.items() if name != "_turns"}
        made.__dict__.update(copy.deepcopy(state, memo), _turns=threading.Lock())
        return made

    def __reduce__(self) -> NoReturn:
        raise ConfigurationError(
            "pickle of a MetatomicModel",
            expected="a model in the memory of one process",
            got="an attempt to pickle it",
            fix="make it anew from its file where it is needed, or copy it by copy.deepcopy",
        )

    def _active(self) -> set[str]:
        """What is to be computed."""
        return set(BaseModelMixin.output_data(self))

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """None: features of a model are among its extra outputs."""
        return {}

    def compute_embeddings(self, data: AtomicData | Batch, **kwargs: Any) -> AtomicData | Batch:
        """Not for these models.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError("ask for the model's features by extra_outputs=['feature']")

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Systems of the batch, and its list unless the model searches.

        Raises
        ------
        InputError
            If a field of the batch can not be used; with the number of the system that it is of.
        """
        systems = self._reader.systems(data)
        if "stress" in self._active():
            require_periodic(systems.cells)
        config = self.model_config.neighbor_config
        pairs = None if config is None else read_list(data, config.cutoff, self._reader.device)
        return {"systems": systems, "pairs": pairs}

    @torch.compiler.disable
    @own_autograd_mode
    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> OrderedDict[str, Any]:
        """Evaluate the model once on all systems.

        Parameters
        ----------
        data
            A batch, or one structure. It is not changed.

        Returns
        -------
        OrderedDict
            What is active of ``energy`` (n_systems, 1) in eV, ``forces`` (n_atoms, 3) in eV/Å,
            ``stress`` (n_systems, 3, 3) in eV/Å^3, tensile positive, and the extra outputs in the
            units that they were asked for.

        Raises
        ------
        BridgeError
            What :meth:`MetatomicForceProvider.compute` raises, with the number of the system.
        """
        batch = data if isinstance(data, Batch) else Batch.from_data_list([data])
        with self._turns:  # lists, cells and tuner are those of the batch before
            inputs = self.adapt_input(batch, **kwargs)
            return self.adapt_output(self._evaluate(**inputs), batch)

    def _evaluate(self, systems: Systems, pairs: FullPairs | None) -> dict[str, Any]:
        active = self._active()
        wanted = Wanted(
            energy="energy" in active, forces="forces" in active, virial="stress" in active
        )
        searches = self._geometry.searches
        self._tuner.start()
        if pairs is None:
            joined = self._geometry.step(systems)
        else:
            with explained(systems, pairs):
                joined = self._geometry.step(systems, pairs)
            self._guard.require_complete(systems, joined)
        provider = self.provider
        found = evaluate(
            provider.loaded,
            provider.plan,
            joined,
            wanted,
            route=provider.route,
            check_consistency=provider.check_consistency,
            optimize=self._tuner.mode.optimize,
        )
        require_finite_systems(found, systems.sizes)
        self._tuner.stop(counts=self._geometry.searches == searches)
        self._keep(found, systems.sizes)
        return {"found": found, "dtype": systems.positions.dtype, "cells": systems.cells}

    def _keep(self, found: Evaluation, sizes: list[int]) -> None:
        self.additional_outputs, self.uncertainty = found.extra, None
        if found.uncertainty is None:
            return
        self.uncertainty = found.uncertainty.double() * self._energy
        if self._threshold is None or not bool((self.uncertainty > self._threshold).any()):
            return
        for k, own in enumerate(self.uncertainty.split(sizes)):
            warn_if_uncertain(own, self._threshold, structure=k)

    def adapt_output(self, model_output: Any, data: AtomicData | Batch) -> OrderedDict[str, Any]:
        """Results in nvalchemi's units, shapes and signs."""
        found, dtype = model_output["found"], model_output["dtype"]
        results: OrderedDict[str, Any] = OrderedDict()
        for name in sorted(self._active()):
            if name == "energy":
                results[name] = (found.energy * self._energy).to(dtype)[:, None]
            elif name == "forces":
                results[name] = (found.forces.double() * (self._energy * self._length)).to(dtype)
            elif name == "stress":
                volumes = found.virial.new_tensor(
                    model_output["cells"].volumes, dtype=torch.float64
                )
                results[name] = (found.virial.double() * self._energy / volumes[:, None, None]).to(
                    dtype
                )
            else:
                results[name] = values_of(name, found.extra[name], data.num_nodes_list, dtype)
        return results


def _require_options(neighbors: Any, skin: Any, requested: Mapping[str, ModelOutput]) -> None:
    if neighbors not in ("own", "batch"):
        raise ConfigurationError(
            "neighbors", expected="'own' or 'batch'", got=repr(neighbors), fix="choose one of them"
        )
    if not isinstance(skin, (int, float)) or not 0.0 <= skin < float("inf"):
        raise ConfigurationError(
            "skin", expected="a length of zero or more, in Å", got=repr(skin), fix="choose 1.0"
        )
    if requested:
        raise ConfigurationError(
            "model",
            expected="one that needs atoms and cell only",
            got=f"one that requests {', '.join(sorted(requested))}",
            fix="evaluate it through ASE (alchemi_bridge.BridgeCalculator)",
        )

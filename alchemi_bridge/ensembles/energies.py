"""Energies and forces of many frames, and what depends on them differentiated by the model.

A function L of all energies is differentiated in two passes, which is exact: energies without a
graph, from which L and dL/dU follow; then chunk by chunk ``sum_i dL/dU_i dU_i/dtheta``. The graph
of one chunk is alive at a time, however many frames there are. Forces go the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import ase
import numpy as np
import torch

from alchemi_bridge.batch import Structure, prepare
from alchemi_bridge.cell import Cell
from alchemi_bridge.engines.ase_batch import structure_of
from alchemi_bridge.ensembles.trajectory import Trajectory
from alchemi_bridge.errors import (
    ConfigurationError,
    EvaluationError,
    NonFiniteResultError,
    last_line,
)
from alchemi_bridge.model import LoadedModel, OutputPlan, Route, plan_outputs
from alchemi_bridge.model.evaluate import energies_with_graph
from alchemi_bridge.model.joined import JoinedInput
from alchemi_bridge.provider import choose_route
from alchemi_bridge.units import Units, conversion_factor

#: Atoms in a chunk where nobody says how many frames it has: a model with messages takes some
#: 50 kB an atom for its graph, Lennard-Jones 5 kB.
ATOMS_IN_CHUNK = 2048

#: Memory for prepared chunks of a set of frames, bytes; those beyond it are prepared every time.
KEPT_BYTES = 256 * 2**20


@dataclass(eq=False)
class _Runner:
    """What the search of pairs wants to know, see :class:`~alchemi_bridge.batch.ModelRunner`."""

    loaded: LoadedModel
    plan: OutputPlan
    route: Route
    units: Units
    check_consistency: bool = False


class Frames:
    """Frames with their pairs, which are searched once.

    Parameters
    ----------
    loaded
        The model. Its parameters may be changed between calls, the frames not.
    structures
        At least one, in Å.
    chunk
        Frames that are evaluated at a time; by default as many as have ``ATOMS_IN_CHUNK`` atoms.
    kept_bytes
        Memory for prepared chunks.
    variants
        Of the model's outputs, see :func:`~alchemi_bridge.model.plan_outputs`.

    Raises
    ------
    ConfigurationError
        If there is no frame, or the chunk is none.
    BridgeError
        Everything that may be wrong with a structure, with its number.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        structures: Sequence[Structure],
        *,
        chunk: int | None = None,
        kept_bytes: int = KEPT_BYTES,
        variants: dict[str, str | None] | None = None,
    ) -> None:
        _require_some(structures, chunk)
        self.loaded = loaded
        self.sizes = [len(one.types) for one in structures]
        self.plan = plan_outputs(loaded.capabilities, variants=variants, uncertainty=False)
        route = choose_route(loaded, "auto")
        self._runner = _Runner(loaded, self.plan, route, Units())
        self._energy = conversion_factor(loaded.energy_unit, "eV")
        self._length = conversion_factor("angstrom", loaded.length_unit)
        self._structures = structures
        self._ranges = _ranges(self.sizes, chunk)
        self._kept: dict[int, JoinedInput] = {}
        self._room = kept_bytes

    @classmethod
    def of_atoms(cls, loaded: LoadedModel, atoms: Sequence[ase.Atoms], **options: Any) -> Frames:
        """Of ASE's structures."""
        return cls(loaded, [structure_of(one, loaded) for one in atoms], **options)

    @classmethod
    def of_trajectory(cls, loaded: LoadedModel, trajectory: Trajectory, **options: Any) -> Frames:
        """Of a trajectory."""
        numbers = trajectory.numbers.copy()
        positions = torch.from_numpy(trajectory.positions.copy()).to(loaded.device)
        structures = [
            Structure(numbers, positions[k], Cell.of(trajectory.cells[k], trajectory.pbc))
            for k in range(len(positions))
        ]
        return cls(loaded, structures, **options)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def n_bytes(self) -> int:
        """Memory of the chunks that are kept."""
        return sum(map(_bytes, self._kept.values()))

    # --- values ------------------------------------------------------------------------------

    def energies(self) -> torch.Tensor:
        """(n_frames,) float64, eV, on the host.

        Raises
        ------
        NonFiniteResultError
            With the number of the frame.
        """
        found = torch.empty(len(self), dtype=torch.float64)
        with torch.no_grad():
            for begin, end, inputs in self._chunks():
                values, _ = energies_with_graph(self.loaded, self.plan, inputs)
                found[begin:end] = values.cpu() * self._energy
        _require_finite(found, "energy")
        return found

    def energies_and_forces(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(n_frames,) eV and (n_atoms of all frames, 3) eV/Å, float64, on the host."""
        energies = torch.empty(len(self), dtype=torch.float64)
        forces = []
        for begin, end, inputs in self._chunks():
            with torch.enable_grad():
                values, graphs = energies_with_graph(
                    self.loaded, self.plan, inputs, route=self._runner.route
                )
                found, _ = graphs.differentiate(values).collect(False)
            energies[begin:end] = values.detach().cpu() * self._energy
            forces.append(found.cpu().double() * (self._energy * self._length))
        _require_finite(energies, "energy")
        of_frame = torch.cat(forces).split(self.sizes)
        _require_finite(torch.stack([one.abs().amax() for one in of_frame]), "forces")
        return energies, torch.cat(forces)

    # --- gradients ---------------------------------------------------------------------------

    def gradient(
        self,
        tensors: Sequence[torch.Tensor],
        by_energies: torch.Tensor,
        by_forces: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """``sum_i dL/dU_i dU_i/dtheta + sum_a dL/dF_a dF_a/dtheta``, with one chunk's graph alive.

        Parameters
        ----------
        tensors
            Of the model, which require a gradient; see
            :meth:`~alchemi_bridge.ensembles.models.WorkerModel.differentiable`.
        by_energies
            (n_frames,) float64, dL/dU with U in eV.
        by_forces
            (n_atoms of all frames, 3) float64, dL/dF with F in eV/Å.

        Returns
        -------
        list
            One for each tensor, of its shape, float64, on the host; zeros where nothing depends on
            it.

        Raises
        ------
        EvaluationError
            If the energy of no frame depends on any of them, or the backward pass fails.
        """
        total = [torch.zeros(t.shape, dtype=torch.float64) for t in tensors]
        any_graph = False
        route = None if by_forces is None else self._runner.route
        atoms = np.cumsum([0, *self.sizes])
        for begin, end, inputs in self._chunks():
            with torch.enable_grad():
                values, graphs = energies_with_graph(self.loaded, self.plan, inputs, route=route)
                product = self._energy * (values * by_energies[begin:end].to(values.device)).sum()
                if by_forces is not None:
                    part = by_forces[atoms[begin] : atoms[end]]
                    directions = part.to(inputs.positions.device, inputs.positions.dtype)
                    work = graphs.work(values, directions)
                    product = product + self._energy * self._length * work
                if not product.requires_grad:
                    continue
                found = _differentiated(product, tensors)
            for sum_, one in zip(total, found, strict=True):
                if one is not None:
                    any_graph = True
                    sum_ += one.cpu().double()
        if not any_graph:
            raise _no_gradient()
        return total

    # --- chunks ------------------------------------------------------------------------------

    def _chunks(self) -> Iterator[tuple[int, int, JoinedInput]]:
        """First frame, frame after the last, and the inputs of each chunk."""
        for number, (begin, end) in enumerate(self._ranges):
            inputs = self._kept.get(number)
            if inputs is None:
                inputs = prepare(self._runner, self._structures[begin:end], range(begin, end))
                size = _bytes(inputs)
                if size <= self._room:
                    self._kept[number] = inputs
                    self._room -= size
            yield begin, end, inputs


def _differentiated(
    product: torch.Tensor, tensors: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    try:
        return torch.autograd.grad(product, tensors, allow_unused=True)
    except Exception as error:  # operators of the model's own may raise anything
        raise EvaluationError(
            "gradient of the model by its parameters",
            expected="derivatives of energies and forces",
            got=last_line(error),
            fix="choose other parameters; a custom operator may lack the derivative",
        ) from error


def _no_gradient() -> EvaluationError:
    return EvaluationError(
        "gradient of the model by its parameters",
        expected="energies that depend on at least one of the chosen parameters",
        got="energies that depend on none of them",
        fix="choose other parameters",
    )


def _require_some(structures: Sequence[Structure], chunk: int | None) -> None:
    if not structures:
        raise ConfigurationError(
            "frames", expected="at least one", got="none", fix="keep some of the trajectory"
        )
    if chunk is not None and chunk < 1:
        raise ConfigurationError(
            "chunk", expected="at least one frame", got=str(chunk), fix="leave it out"
        )


def _ranges(sizes: Sequence[int], chunk: int | None) -> list[tuple[int, int]]:
    """First frame and frame after the last of each chunk."""
    found, begin, n_atoms = [], 0, 0
    for k, size in enumerate(sizes):
        full = k - begin >= chunk if chunk else n_atoms + size > ATOMS_IN_CHUNK
        if k > begin and full:
            found.append((begin, k))
            begin, n_atoms = k, 0
        n_atoms += size
    return [*found, (begin, len(sizes))]


def _bytes(value: Any) -> int:
    """Memory of the tensors in a prepared chunk."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    if hasattr(value, "__dataclass_fields__"):
        return sum(_bytes(getattr(value, field.name)) for field in fields(value))
    return 0


def _require_finite(values: torch.Tensor, what: str) -> None:
    """``values``: one number of each frame."""
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        number = int(bad.nonzero()[0, 0])
        raise NonFiniteResultError(
            f"{what} of frame {number}",
            expected="finite numbers",
            got=str(float(values[number])),
            fix="look at this frame, and at the parameters, which may have left their range",
        )

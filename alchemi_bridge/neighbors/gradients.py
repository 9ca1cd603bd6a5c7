"""The way of gradients back: from pair vectors to atoms, and into the engine's memory."""

from __future__ import annotations

from typing import Any

import torch

from alchemi_bridge.native import elements, launcher_for
from alchemi_bridge.neighbors.blocks import RequestedPairs

_LETTER = {torch.float32: "f", torch.float64: "d"}


def gather_forces(
    pairs: RequestedPairs,
    gradients: torch.Tensor,
    forces: torch.Tensor,
    virial: torch.Tensor | None = None,
) -> None:
    """Add forces from gradients with respect to pair vectors, in a fixed order.

    ``F_i += sum_k g_k - g_rev(k)`` over the pairs k of atom i, and for the virial
    ``sum_k r_k (x) g_k``: under a strain every vector becomes ``r @ (1 + strain)``. One thread of
    a host goes through the pairs, all others through the atoms, with the same bits.

    Parameters
    ----------
    pairs
        The pairs handed to the model.
    gradients
        (n_rows, 3) dE/dr of each row handed to the model.
    forces
        (n_atoms, 3) in the same dtype, contiguous, changed in place.
    virial
        (n_atoms, 9) float64, contiguous, changed in place: what the rows of each atom add to
        dE/d(strain); their sum is what counts.
    """
    candidates = pairs.candidates
    gradients = gradients.reshape(-1, 3).contiguous()
    run = launcher_for(forces.device)
    if run is None:
        first = pairs.first.long()
        wide = gradients.double()
        total = torch.zeros_like(forces, dtype=torch.float64)
        total.index_add_(0, first, wide)
        # negated here, not by alpha=-1, for which torch leaves its fast path on a CPU
        total.index_add_(0, pairs.second.long(), -wide)
        forces += total.to(forces.dtype)
        if virial is not None:
            outer = pairs.vectors.double()[:, :, None] * wide[:, None, :]
            virial.index_add_(0, first, outer.reshape(-1, 9))
        return
    arrays = (candidates.starts, candidates.second, candidates.code, candidates.reverse)
    codes, given = len(candidates.table), (gradients, pairs.vectors)
    letter, n_atoms = _LETTER[forces.dtype], candidates.n_atoms
    if run.threads(n_atoms) > 1:
        run.launch(
            f"gather_rows_{letter}", n_atoms, *arrays, pairs.place, codes, *given, forces, virial
        )
        return
    wide = forces if forces.dtype == torch.float64 else forces.double()
    sizes = (codes, len(candidates))
    run.launch(
        f"scatter_rows_{letter}",
        n_atoms,
        *arrays,
        pairs.place,
        *sizes,
        *given,
        wide,
        virial,
        serial=True,
    )
    if wide is not forces:
        forces.copy_(wide)


def add_rows(
    rows: torch.Tensor, subset: torch.Tensor | None, factor: float, target: torch.Tensor
) -> None:
    """Add ``rows * factor`` to the engine's rows.

    Parameters
    ----------
    rows
        (n, 3) float32 or float64, contiguous.
    subset
        (n,) int64, distinct rows of the target; ``None`` for all in order.
    factor
        Unit conversion; the product is taken in float64 and rounded once.
    target
        (n_target, 3) float32 or float64 with any strides, changed in place.
    """
    run = launcher_for(target.device)
    if run is None:
        values = (rows.double() * factor).to(target.dtype)
        if subset is None:
            target.add_(values)
        else:
            target.index_add_(0, subset, values)
        return
    run.launch(
        f"add_rows_{_LETTER[rows.dtype]}{_LETTER[target.dtype]}",
        len(rows),
        rows,
        subset,
        factor,
        elements(target),
        *target.stride(),
    )


def shared_virials(pairs: RequestedPairs, gradients: torch.Tensor, rows: torch.Tensor) -> None:
    """Add what each pair gives to dE/d(strain), half of it to either of its atoms.

    ``W_i += 1/2 sum_k r_k (x) g_k`` over the pairs k that atom i is in, as their first or second
    atom; a pair of an atom with its own image counts for it twice.

    Parameters
    ----------
    pairs
        The pairs handed to the model.
    gradients
        (n_rows, 3) dE/dr of each row handed to the model.
    rows
        (n_atoms, 3, 3) float64, changed in place: the first axis is that of ``r``, the second that
        of ``g``. On a GPU the order of the sum is not fixed.
    """
    half = gradients.reshape(-1, 3).double() / 2.0
    first, second = pairs.first.long(), pairs.second.long()
    for axis in range(3):  # not all nine at once: there are many more pairs than atoms
        share = pairs.vectors[:, axis : axis + 1].double() * half
        rows[:, axis].index_add_(0, first, share)
        rows[:, axis].index_add_(0, second, share)


def outer_sum(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(3, 3) sum of the outer products of rows, summed in float64."""
    return (left.double().T @ right.double()).to(left.dtype)


def attached_vectors(
    pairs: RequestedPairs,
    positions: torch.Tensor,
    cell: torch.Tensor,
    systems: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pair vectors that hang on positions and cell, for models that differentiate by themselves.

    Their values are the accurate ``pairs.vectors``; the gradient comes back through the rows, and
    can be differentiated again.

    Parameters
    ----------
    pairs
        Pairs of this step.
    positions, cell
        (n_atoms, 3) and (3, 3) with their graph, in the model's dtype.
    systems
        (n_rows,) int64 system of each row, where ``cell`` is (n_systems, 3, 3).
    """
    vectors: torch.Tensor = _PairVectors.apply(positions, cell, pairs, systems)
    return vectors


class _PairVectors(torch.autograd.Function):
    """``r_k = x[second] - x[first] + shift @ cell``, linear in positions and cell."""

    @staticmethod
    def forward(
        ctx: Any,
        positions: torch.Tensor,
        cell: torch.Tensor,
        pairs: RequestedPairs,
        systems: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.pairs, ctx.systems, ctx.n_systems = pairs, systems, len(cell)
        return pairs.vectors.clone()

    @staticmethod
    def backward(ctx: Any, gradients: torch.Tensor) -> tuple:
        pairs = ctx.pairs
        shifts = pairs.shifts.to(gradients.dtype)
        if ctx.systems is None:
            # written out as products, see rows_times
            of_cell = torch.stack([(shifts[:, k : k + 1] * gradients).sum(dim=0) for k in range(3)])
        else:
            outer = shifts[:, :, None] * gradients[:, None, :]
            of_cell = gradients.new_zeros((ctx.n_systems, 3, 3)).index_add(0, ctx.systems, outer)
        return _PairSums.apply(gradients, pairs), of_cell, None, None


class _PairSums(torch.autograd.Function):
    """The transpose: ``s_i = sum_k g_rev(k) - g_k``, the gradient with respect to positions."""

    @staticmethod
    def forward(ctx: Any, gradients: torch.Tensor, pairs: RequestedPairs) -> torch.Tensor:
        ctx.pairs = pairs
        forces = gradients.new_zeros((pairs.candidates.n_atoms, 3))
        gather_forces(pairs, gradients, forces)
        return -forces

    @staticmethod
    def backward(ctx: Any, of_sums: torch.Tensor) -> tuple:
        first, second = ctx.pairs.first.long(), ctx.pairs.second.long()
        return of_sums.index_select(0, second) - of_sums.index_select(0, first), None

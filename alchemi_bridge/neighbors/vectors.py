"""Pair vectors, and the way of gradients back from pairs to atoms (torch reference)."""

from __future__ import annotations

import torch

from alchemi_bridge.neighbors.blocks import RequestedPairs


def pair_offsets(shifts: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """(n_pairs, 3) ``shifts @ cell``: what the images add to the pair vectors.

    They change only when the list or the cell does.
    """
    return rows_times(shifts.to(cell.dtype), cell)


def rows_times(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(n, 3) ``rows @ matrix`` of a (3, 3) matrix, in full precision.

    Written out, because a GPU may be told to round the factors of matrix products to ten bits
    (``torch.set_float32_matmul_precision``): good for the layers of a net, not for coordinates.
    """
    return rows[:, 0:1] * matrix[0] + rows[:, 1:2] * matrix[1] + rows[:, 2:3] * matrix[2]


def pair_vectors(
    positions: torch.Tensor, first: torch.Tensor, second: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """Vectors ``positions[second] - positions[first] + offsets``.

    Parameters
    ----------
    positions
        (n_atoms, 3), never wrapped between searches.
    first, second
        (n_pairs,) int32 or int64.
    offsets
        (n_pairs, 3) from :func:`pair_offsets`, of the same dtype and device.

    Returns
    -------
    torch.Tensor
        (n_pairs, 3); differentiable with respect to positions and offsets.
    """
    # rounding of positions far from the origin enters only once: the difference comes first
    return (positions.index_select(0, second) - positions.index_select(0, first)) + offsets


def squared_lengths(vectors: torch.Tensor) -> torch.Tensor:
    """(n_pairs,) squares in float64 of (n_pairs, 3) vectors."""
    wide = vectors.double()
    # as a product with ones: ten times faster on a CPU than a sum over rows of three
    return (wide * wide) @ torch.ones(3, dtype=torch.float64, device=vectors.device)


def sum_over_pairs(pairs: RequestedPairs, gradients: torch.Tensor, out: torch.Tensor) -> None:
    """Add forces from gradients with respect to pair vectors: ``F_i += g_ij``, ``F_j -= g_ij``.

    Parameters
    ----------
    pairs
        The pairs handed to the model.
    gradients
        (n_rows, 3) dE/dr of each row handed to the model.
    out
        (n_atoms, 3) forces, changed in place.
    """
    along = _of_each_pair(pairs, gradients)
    out.index_add_(0, pairs.first[: pairs.n_pairs].long(), along)
    # negated here, not by alpha=-1, for which torch leaves its fast path on a CPU
    out.index_add_(0, pairs.second[: pairs.n_pairs].long(), -along)


def virial_of_pairs(pairs: RequestedPairs, gradients: torch.Tensor) -> torch.Tensor:
    """dE/d(strain) of an energy that sees geometry through pair vectors: ``sum_k r_k (x) g_k``.

    Under a strain every vector becomes ``r @ (1 + strain)``, hence the (3, 3) product.
    """
    return outer_sum(pairs.vectors[: pairs.n_pairs], _of_each_pair(pairs, gradients))


def outer_sum(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(3, 3) sum of the outer products of rows, summed in float64 (see :func:`rows_times`)."""
    return (left.double().T @ right.double()).to(left.dtype)


def _of_each_pair(pairs: RequestedPairs, gradients: torch.Tensor) -> torch.Tensor:
    """(n_pairs, 3) gradients with respect to the vectors of pairs, both directions taken together.

    The vector of the reverse is ``-r``, so that its gradient counts with the other sign.
    """
    forward = gradients[: pairs.n_pairs]
    return forward if len(gradients) == pairs.n_pairs else forward - gradients[pairs.n_pairs :]

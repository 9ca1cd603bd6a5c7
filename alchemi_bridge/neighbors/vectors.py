"""Pair vectors, and the way of gradients back from pairs to atoms (torch reference)."""

from __future__ import annotations

import torch


def pair_vectors(
    positions: torch.Tensor,
    cell: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    shifts: torch.Tensor,
) -> torch.Tensor:
    """Vectors ``positions[second] - positions[first] + shifts @ cell``.

    Parameters
    ----------
    positions
        (n_atoms, 3), never wrapped between searches.
    cell
        (3, 3) rows, of the same dtype and device.
    first, second
        (n_pairs,) int64.
    shifts
        (n_pairs, 3) integers.

    Returns
    -------
    torch.Tensor
        (n_pairs, 3); differentiable with respect to positions and cell.
    """
    # rounding of positions far from the origin enters only once: the difference comes first
    return (positions[second] - positions[first]) + shifts.to(positions.dtype) @ cell


def sum_over_pairs(
    gradients: torch.Tensor, first: torch.Tensor, second: torch.Tensor, out: torch.Tensor
) -> None:
    """Add forces from gradients with respect to pair vectors: ``F_i += g_ij``, ``F_j -= g_ij``.

    Parameters
    ----------
    gradients
        (n_pairs, 3) dE/dr of each pair handed to the model.
    first, second
        (n_pairs,) int64.
    out
        (n_atoms, 3) forces, changed in place.
    """
    out.index_add_(0, first, gradients)
    out.index_add_(0, second, gradients, alpha=-1.0)


def virial_of_pairs(gradients: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """dE/d(strain) of an energy that sees geometry through pair vectors: ``sum_k r_k (x) g_k``.

    Under a strain every vector becomes ``r @ (1 + strain)``, hence the (3, 3) product.
    """
    return vectors.T @ gradients

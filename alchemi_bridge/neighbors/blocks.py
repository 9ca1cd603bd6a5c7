"""Candidates cut at a requested cutoff, as the TensorBlock that metatomic wants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from metatensor.torch import Labels, TensorBlock

from alchemi_bridge.pairs import Candidates

#: The model computes lengths in its own arithmetic: three squares, two sums, a root and the rounded
#: cutoff are off by less than 2 eps in all, which is 4 eps of the square; the square of a float64
#: model is off by 2 more. Pairs that close to the cutoff are left out (2e-6 Å of 5 Å in float32):
#: to the model they could be beyond it.
EDGE_EPS = 6.0

SAMPLE_NAMES = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]


@dataclass(frozen=True, eq=False)
class RequestedPairs:
    """The pairs of one request of the model, in one step.

    Attributes
    ----------
    samples
        (n_rows, 5) int32 rows ``(first, second, shift)``.
    vectors
        (n_rows, 3) in the model's dtype and length unit.
    n_pairs
        The first ``n_pairs`` rows are the distinct pairs. For a full list as many follow: the same
        pairs backwards, in the same order.
    """

    samples: torch.Tensor
    vectors: torch.Tensor
    n_pairs: int

    @property
    def first(self) -> torch.Tensor:
        """(n_rows,) int32."""
        return self.samples[:, 0]

    @property
    def second(self) -> torch.Tensor:
        """(n_rows,) int32."""
        return self.samples[:, 1]

    @property
    def shifts(self) -> torch.Tensor:
        """(n_rows, 3) int32."""
        return self.samples[:, 2:]


def cut(
    candidates: Candidates,
    vectors: torch.Tensor,
    squared: torch.Tensor,
    *,
    cutoff: float,
    full_list: bool,
) -> RequestedPairs:
    """Keep the pairs with ``|r| < cutoff``, in both directions or one.

    Lists for ``strict=False`` requests are cut, too: the model may get fewer pairs than it could
    stand, never one too many.

    Parameters
    ----------
    candidates
        All pairs of the search.
    vectors
        (n_pairs, 3) of all candidates, in the model's dtype.
    squared
        (n_pairs,) their squared lengths in float64, from the rounded ``vectors``, so that no pair
        is handed over whose length in the model's arithmetic is at or beyond the cutoff.
    cutoff
        In the model's length unit.
    full_list
        Both directions, or each pair once.
    """
    keep = squared < cutoff * cutoff * (1.0 - EDGE_EPS * torch.finfo(vectors.dtype).eps)
    index = torch.nonzero(keep).squeeze(1)
    samples = candidates.samples.index_select(0, index)
    vectors = vectors.index_select(0, index)
    if full_list:
        samples = torch.cat([samples, candidates.reversed_samples.index_select(0, index)])
        vectors = torch.cat([vectors, -vectors])
    return RequestedPairs(samples, vectors, n_pairs=len(index))


def neighbor_block(pairs: RequestedPairs, vectors: torch.Tensor) -> TensorBlock:
    """The block with metatomic's metadata.

    Parameters
    ----------
    pairs
        Indices and shifts.
    vectors
        (n_pairs, 3) values to store: ``pairs.vectors``, or the same numbers attached to a graph.
    """
    device = vectors.device
    return TensorBlock(
        values=vectors.unsqueeze(-1),
        # unique by construction: candidates hold every pair once
        samples=Labels(SAMPLE_NAMES, pairs.samples, assume_unique=True),
        components=[Labels(["xyz"], torch.arange(3, dtype=torch.int32, device=device)[:, None])],
        properties=Labels(["distance"], torch.zeros((1, 1), dtype=torch.int32, device=device)),
    )

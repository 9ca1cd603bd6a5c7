"""The pairs of one request of the model, and the TensorBlock that metatomic wants of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from metatensor.torch import Labels, TensorBlock

from alchemi_bridge.pairs import Candidates

SAMPLE_NAMES = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]


@dataclass(frozen=True, eq=False)
class RequestedPairs:
    """The pairs of one request of the model, in one step.

    Attributes
    ----------
    samples
        (n_rows, 5) int32 rows ``(first, second, shift)``, sorted; of several systems, the atoms are
        numbered within each.
    vectors
        (n_rows, 3) in the model's dtype and length unit.
    candidates
        What they were cut from.
    place
        (n_candidates,) int32 row of each candidate, -1 for those that were left out.
    """

    samples: torch.Tensor
    vectors: torch.Tensor
    candidates: Candidates
    place: torch.Tensor

    @property
    def first(self) -> torch.Tensor:
        """(n_rows,) int32, numbered through all systems."""
        return self.samples[:, 0] if self.candidates.begin is None else self._atoms[0]

    @property
    def second(self) -> torch.Tensor:
        """(n_rows,) int32, numbered through all systems."""
        return self.samples[:, 1] if self.candidates.begin is None else self._atoms[1]

    @cached_property
    def _atoms(self) -> tuple[torch.Tensor, torch.Tensor]:
        listed = torch.nonzero(self.place >= 0).squeeze(1)  # in the order of the rows
        return self.candidates.first[listed], self.candidates.second[listed]

    @property
    def shifts(self) -> torch.Tensor:
        """(n_rows, 3) int32."""
        return self.samples[:, 2:]


@lru_cache(maxsize=8)
def block_metadata(device: torch.device) -> tuple[list[Labels], Labels]:
    """Metadata that is the same for all blocks."""
    xyz = torch.arange(3, dtype=torch.int32, device=device)[:, None]
    distance = torch.zeros((1, 1), dtype=torch.int32, device=device)
    return [Labels(["xyz"], xyz)], Labels(["distance"], distance)


def neighbor_block(samples: torch.Tensor, values: torch.Tensor) -> TensorBlock:
    """The block with metatomic's metadata.

    Parameters
    ----------
    samples
        (n_rows, 5) int32 of :class:`RequestedPairs`: unique by construction, since candidates hold
        every pair once.
    values
        (n_rows, 3, 1) vectors.
    """
    components, properties = block_metadata(values.device)
    return TensorBlock(
        values=values,
        samples=Labels(SAMPLE_NAMES, samples, assume_unique=True),
        components=components,
        properties=properties,
    )

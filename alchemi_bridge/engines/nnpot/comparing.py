# ruff: noqa: UP006, UP035  (TorchScript reads typing's classes)
"""Whether two pair lists hold the same pairs, whichever atom comes first in each."""

from typing import Tuple

import torch


def one_way(
    first: torch.Tensor, second: torch.Tensor, shifts: torch.Tensor
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same pairs, (P,), (P,), (P, 3), with the lower atom first.

    Of a pair of an atom with its own image the first number that is not zero becomes positive.
    """
    a, b, c = shifts[:, 0], shifts[:, 1], shifts[:, 2]
    negative = (a < 0) | ((a == 0) & ((b < 0) | ((b == 0) & (c < 0))))
    turned = (first > second) | ((first == second) & negative)
    return (
        torch.where(turned, second, first),
        torch.where(turned, first, second),
        torch.where(turned.unsqueeze(1), -shifts, shifts),
    )


def pair_numbers(
    one: Tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    other: Tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> Tuple[torch.Tensor, torch.Tensor]:
    """A number for each pair of two lists, the same for the same pair.

    Parameters
    ----------
    one, other
        first (P,), second (P,) and shifts (P, 3), int64, in one direction each.

    Returns
    -------
    torch.Tensor, torch.Tensor
        (P,) int64 of each list, sorted.
    """
    n_one = one[0].shape[0]
    first, second, shifts = one_way(
        torch.cat([one[0], other[0]]),
        torch.cat([one[1], other[1]]),
        torch.cat([one[2], other[2]]),
    )
    if first.shape[0] == 0:
        return first, second
    columns = torch.cat([first.unsqueeze(1), second.unsqueeze(1), shifts], dim=1)
    columns = columns - columns.amin(dim=0)
    numbers = torch.zeros_like(first)
    for k in range(5):
        numbers = numbers * (columns[:, k].max() + 1) + columns[:, k]
    return numbers[:n_one].sort()[0], numbers[n_one:].sort()[0]

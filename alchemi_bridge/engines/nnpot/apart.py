"""Atoms that sit on the same point."""

import torch


def require_apart(
    first: torch.Tensor,
    second: torch.Tensor,
    squares: torch.Tensor,
    closest: float,
    closest_text: str,
    length_factor: float,
) -> None:
    """Raise ValueError that names two atoms closer than ``closest``.

    Parameters
    ----------
    first, second
        (P,) int64, pairs of atoms.
    squares
        (P,) float64, their squared distances.
    closest
        In the unit of the distances.
    closest_text
        The same in nm, with its unit.
    length_factor
        nm in that unit.
    """
    if squares.shape[0] == 0:
        return
    k = int(torch.argmin(squares))
    distance = float(squares[k]) ** 0.5
    if distance < closest:
        raise ValueError(
            f"alchemi-bridge: atoms {int(first[k])} and {int(second[k])} of nnpot-input-group "
            + f"(counted from 0): expected a distance of at least {closest_text}, got "
            + f"{distance / length_factor} nm; remove one of the atoms or move them apart"
        )

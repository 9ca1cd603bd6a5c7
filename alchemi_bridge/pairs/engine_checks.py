"""What is checked of an engine's rows before anything is made of them.

Every check is a flag on the device; all flags come to the host in one read, and the message of the
first that is set is made only then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alchemi_bridge.errors import BridgeError, ConfigurationError, PairListError
from alchemi_bridge.pairs.engine_rows import (
    ALL_BITS,
    NO_HIGHEST,
    NO_LOWEST,
    EngineRows,
    Seen,
    entry_facts,
)


@dataclass(frozen=True, eq=False)
class Check:
    """Something that must not be.

    Attributes
    ----------
    bad
        Any shape, bool: where it is.
    error
        Makes the error, given the place of the first flag that is set.
    """

    bad: torch.Tensor
    error: Callable[[int], BridgeError]


def require(checks: Sequence[Check]) -> None:
    """Raise the error of the first check that fails, after one read from the device."""
    flags = torch.stack([check.bad.any() for check in checks]).tolist()
    for check, failed in zip(checks, flags, strict=True):
        if failed:
            raise check.error(int(check.bad.reshape(-1).to(torch.uint8).argmax()))


# --- options, on the host ------------------------------------------------------------------------


def require_newton(full: object, newton: object) -> None:
    """Raise :class:`ConfigurationError` unless a half list says what it has through ghosts."""
    if not isinstance(full, bool) or not (newton is None or isinstance(newton, bool)):
        raise ConfigurationError(
            "kind of pair list",
            expected="full and newton to be True or False",
            got=f"full={full!r}, newton={newton!r}",
            fix="say how the engine built the list",
        )
    if not full and newton is None:
        raise ConfigurationError(
            "kind of pair list",
            expected="newton=True or newton=False for a half list over ghosts",
            got="full=False without newton",
            fix="say whether the engine lists a pair through a ghost once (newton on) or on both "
            "sides (newton off)",
        )


def require_mask(mask: object) -> None:
    """Raise :class:`ConfigurationError` unless this is ``None`` or a mask of 32 bits."""
    if mask is None or (_is_integer(mask) and 0 < int(mask) < 2**32):  # type: ignore[call-overload]
        return
    raise ConfigurationError(
        "index_mask",
        expected="a mask of 32 bits that leaves the index, or None",
        got=repr(mask),
        fix="pass LAMMPS_NEIGHMASK for LAMMPS",
    )


def require_count(name: str, value: object) -> None:
    """Raise :class:`ConfigurationError` unless this is an integer of zero or more."""
    if not _is_integer(value) or int(value) < 0:  # type: ignore[call-overload]
        raise ConfigurationError(
            name,
            expected="a number of zero or more",
            got=repr(value),
            fix="pass the engine's own count",
        )


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, (bool, torch.Tensor))


def signed_mask(mask: int | None) -> int:
    """What the kernels take: ``ALL_BITS`` for none."""
    return ALL_BITS if mask is None else int(mask)


# --- memory --------------------------------------------------------------------------------------


def flat(view: torch.Tensor) -> torch.Tensor:
    """All memory from the first element of a view to its last, as one contiguous array."""
    if view.numel() == 0:
        return view.new_empty(0)
    pairs = zip(view.shape, view.stride(), strict=True)
    extent = 1 + sum((n - 1) * stride for n, stride in pairs)
    return view.as_strided((extent,), (1,), view.storage_offset())


# --- rows ----------------------------------------------------------------------------------------


def row_checks(
    atoms: torch.Tensor, *, n_all: int, n_local: int, full: bool, seen: Seen
) -> tuple[torch.Tensor, list[Check]]:
    """Checks of which atom each row is of, and (n_all,) int32 row of each atom.

    ``atoms`` are int64; the rows of those out of range are put somewhere.
    """
    n_rows, device = len(atoms), atoms.device
    outside = (atoms < 0) | (atoms >= n_all)
    safe = atoms.clamp(0, max(n_all - 1, 0))
    numbers = torch.arange(n_rows, dtype=torch.int32, device=device)
    row_of = torch.full((n_all,), -1, dtype=torch.int32, device=device)
    if n_all:
        # of several rows of one atom any may win, and the others see that it is not theirs
        row_of[safe] = numbers
        doubled = row_of[safe] != numbers
    else:
        doubled = torch.zeros_like(outside)
    missing = (row_of[:n_local] < 0) & seen.among(n_local)
    checks = [
        Check(
            outside,
            lambda k: _error(
                f"atom of row {k} of the pair list",
                expected=_indices(n_all),
                got=str(int(atoms[k])),
                fix="hand over the list and the owners of the same search",
            ),
        ),
        Check(
            doubled,
            lambda k: _error(
                f"rows of the pair list, row {k}",
                expected="one row for each atom",
                got=f"a second row of atom {int(atoms[k])}",
                fix="hand over each row once",
            ),
        ),
        Check(
            missing,
            lambda k: _error(
                f"neighbors of atom {k}",
                expected="a row for every local atom that the model sees",
                got=f"no row among {n_rows}",
                fix="hand over the whole list; atoms that the model must not see are left out with "
                "the subset of set_atoms",
            ),
        ),
    ]
    if not full:
        checks.append(
            Check(
                atoms >= n_local,
                lambda k: _error(
                    f"row {k} of the pair list",
                    expected="rows of local atoms only, since it is a half list",
                    got=f"a row of ghost atom {int(atoms[k])}",
                    fix="ask the engine for a full list, or hand over the rows of local atoms",
                ),
            )
        )
    return row_of, checks


def entry_checks(rows: EngineRows, n_all: int, *, alone: bool) -> list[Check]:
    """Checks of the indices; with ``alone`` no row may list its own atom.

    Rows must be within their arrays, which the checks of their kind see to.
    """
    facts = entry_facts(rows)
    low, high = facts[:, 0], facts[:, 1]
    outside = ((low < 0) & (low != NO_LOWEST)) | ((high >= n_all) & (high != NO_HIGHEST))
    checks = [
        Check(
            outside,
            lambda k: _error(
                f"neighbors of atom {int(rows.atoms[k])}",
                expected=_indices(n_all),
                got=f"indices from {int(low[k])} to {int(high[k])}",
                fix="call set_atoms with the current atoms before set_pairs; where the engine "
                "keeps flags in the upper bits, pass index_mask",
            ),
        )
    ]
    if alone:
        checks.append(Check(facts[:, 2] != 0, lambda k: itself_error(rows, k)))
    return checks


def itself_error(rows: EngineRows, row: int) -> PairListError:
    """For an atom that is listed as its own neighbour."""
    return _error(
        f"neighbors of atom {int(rows.atoms[row])}",
        expected="no atom paired with itself in the same cell",
        got="the atom itself",
        fix="leave these pairs out of the list",
    )


def _indices(n_all: int) -> str:
    return f"indices from 0 to {n_all - 1}"


def _error(what: str, *, expected: str, got: str, fix: str) -> PairListError:
    return PairListError(what, expected=expected, got=got, fix=fix)

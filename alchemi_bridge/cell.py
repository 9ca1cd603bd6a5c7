"""The simulation cell: three row vectors and the directions that are periodic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from alchemi_bridge.errors import CellError, DtypeError, NonFiniteError, ShapeError

#: A cell is called singular below this |determinant| of its normalised vectors: images of one atom
#: would be found by the million, and fractional coordinates lose all their digits.
MIN_NORMALISED_VOLUME = 1e-6

#: Vectors beyond these lengths, in any unit, are a mistake; their squares would over- or underflow.
MIN_LENGTH, MAX_LENGTH = 1e-100, 1e100


@dataclass(frozen=True, eq=False)
class Cell:
    """Cell vectors and periodic directions, validated.

    Make one with :meth:`of`. The nine numbers live on the host: engines keep their box there, and
    the shifts of a pair list refer to it only through a 3x3 product.

    Attributes
    ----------
    vectors
        (3, 3) float64, rows are the cell vectors; zero rows in directions that are not periodic.
        In the length unit of whoever made it. Left-handed cells are fine.
    pbc
        Which directions are periodic.
    """

    vectors: np.ndarray
    pbc: tuple[bool, bool, bool]

    @classmethod
    def of(cls, vectors: Any, pbc: Any = True) -> Cell:
        """Validate and copy cell vectors.

        Parameters
        ----------
        vectors
            (3, 3) rows, or (3,) lengths of an orthogonal cell; array or tensor on any device (a
            tensor on a GPU is copied to the host).
        pbc
            One flag or three. Rows of directions that are not periodic are ignored.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, CellError
            On a wrong shape, entries that are no numbers, NaN or infinite entries in periodic rows,
            a zero vector in a periodic direction, or vectors that (nearly) lie in a plane or line.
        """
        rows = _float_array(vectors)
        if rows.shape == (3,):
            rows = np.diag(rows)
        if rows.shape != (3, 3):
            raise _shape_error(f"shape {rows.shape}")
        flags = _flags(pbc)
        rows[~np.array(flags)] = 0.0
        if not np.isfinite(rows).all():
            raise NonFiniteError(
                "cell",
                expected="finite cell vectors",
                got=str(rows.tolist()),
                fix="check the box of the engine",
            )
        _check_singular(rows, flags)
        rows.flags.writeable = False
        return cls(rows, flags)

    @classmethod
    def open(cls) -> Cell:
        """No periodic direction: a molecule in vacuum."""
        return cls.of(np.zeros((3, 3)), False)

    @cached_property
    def completed(self) -> np.ndarray:
        """(3, 3) invertible matrix: rows that are not periodic become unit normals."""
        return _complete(self.vectors, self.pbc)

    @cached_property
    def inverse(self) -> np.ndarray:
        """Inverse of :attr:`completed`: ``positions @ inverse`` are fractional coordinates."""
        return np.linalg.inv(self.completed)

    @cached_property
    def heights(self) -> np.ndarray:
        """(3,) distance between opposite faces; infinite in directions that are not periodic."""
        return np.where(self.pbc, 1.0 / np.linalg.norm(self.inverse, axis=0), np.inf)

    @property
    def volume(self) -> float:
        """Volume of a cell that is periodic in three directions, else CellError."""
        if not all(self.pbc):
            raise CellError(
                "volume",
                expected="a cell that is periodic in all three directions",
                got=f"pbc {self.pbc}",
                fix="ask for the virial instead of the stress, or make the cell periodic",
            )
        return self._volume

    @cached_property
    def _volume(self) -> float:
        return float(abs(np.linalg.det(self.vectors)))

    def scaled(self, factor: float) -> Cell:
        """The same cell in another length unit."""
        if factor == 1.0:
            return self
        vectors = self.vectors * factor
        vectors.flags.writeable = False
        return Cell(vectors, self.pbc)

    def same_as(self, other: Cell) -> bool:
        """Whether all vectors and flags are equal, bit by bit."""
        return self.pbc == other.pbc and np.array_equal(self.vectors, other.vectors)

    def deformation_from(self, reference: Cell) -> np.ndarray:
        """(3, 3) matrix F with ``vectors = reference.vectors @ F`` in the periodic directions."""
        return reference.inverse @ self.completed

    def tensor(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Cell vectors as a tensor, zero rows where not periodic."""
        return upload(torch.tensor(self.vectors, dtype=dtype, device="cpu"), device)


def upload(numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A few numbers of the host on a device, without waiting for it.

    From pinned memory, which torch keeps until the copy is done.
    """
    if device.type != "cuda":
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)


def _float_array(vectors: Any) -> np.ndarray:
    """A float64 copy on the host."""
    try:
        if isinstance(vectors, torch.Tensor):
            vectors = vectors.detach().cpu().numpy()
        elif hasattr(vectors, "__cuda_array_interface__") and hasattr(vectors, "get"):
            vectors = vectors.get()  # CuPy refuses to be copied to the host without being told
        numbers = np.asarray(vectors)
        if numbers.dtype.kind != "c":
            return np.array(numbers, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise _shape_error(f"{type(vectors).__name__} ({error})") from error
    raise DtypeError(
        "cell",
        expected="real numbers",
        got=f"{numbers.dtype} numbers",
        fix="hand over the three row vectors as floats",
    )


def _flags(pbc: Any) -> tuple[bool, bool, bool]:
    try:
        flags = np.asarray(pbc.tolist() if isinstance(pbc, torch.Tensor) else pbc)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        flags = np.empty(0)  # lists of different lengths and the like
    if flags.shape == ():
        flags = np.repeat(flags, 3)
    if flags.shape != (3,) or not (flags.dtype == bool or np.isin(flags, (0, 1)).all()):
        raise ShapeError(
            "pbc",
            expected="one flag or three",
            got=repr(pbc),
            fix="pass for example pbc=(True, True, False)",
        )
    a, b, c = (bool(f) for f in flags)
    return a, b, c


def _complete(rows: np.ndarray, pbc: tuple[bool, bool, bool]) -> np.ndarray:
    """Fill rows that are not periodic with unit vectors orthogonal to all other rows.

    The choice is continuous in the periodic rows, so that a cell that deforms a little keeps its
    frame.
    """
    full = rows.copy()
    basis = [row / np.linalg.norm(row) for row in _orthogonal(rows[np.array(pbc)])]
    for k in np.flatnonzero(~np.array(pbc)):
        for axis in (k, (k + 1) % 3, (k + 2) % 3):
            unit = np.eye(3)[axis]
            rest = unit - sum(((unit @ b) * b for b in basis), np.zeros(3))
            # some axis always leaves at least 1/sqrt(3), whatever the other vectors are
            if np.linalg.norm(rest) > 0.5:
                full[k] = rest / np.linalg.norm(rest)
                basis.append(full[k])
                break
    return full


def _orthogonal(rows: np.ndarray) -> list[np.ndarray]:
    """Gram-Schmidt, without the rows that vanish."""
    basis: list[np.ndarray] = []
    for row in rows:
        rest = row - sum(((row @ b) / (b @ b) * b for b in basis), np.zeros(3))
        if np.linalg.norm(rest) > 1e-12 * np.linalg.norm(row):
            basis.append(rest)
    return basis


def _check_singular(rows: np.ndarray, flags: tuple[bool, bool, bool]) -> None:
    lengths = np.abs(rows).max(axis=1)  # the norm without its square, which may overflow
    for k, name in enumerate("abc"):
        if flags[k] and lengths[k] < MIN_LENGTH:
            raise CellError(
                f"cell vector {name}",
                expected="a vector of non-zero length, since this direction is periodic",
                got="a zero vector" if lengths[k] == 0.0 else f"{rows[k].tolist()}",
                fix=f"set the cell vector, or pbc=False along {name}",
            )
        if lengths[k] > MAX_LENGTH:
            raise CellError(
                f"cell vector {name}",
                expected=f"a length of at most {MAX_LENGTH:g}",
                got=f"{rows[k].tolist()}",
                fix="check the box of the engine",
            )
    if not any(flags):
        return
    full = _complete(rows, flags)
    norms = np.linalg.norm(full, axis=1)
    volume = 0.0 if not (norms > 0).all() else abs(np.linalg.det(full / norms[:, None]))
    if not volume > MIN_NORMALISED_VOLUME:
        raise CellError(
            "cell",
            expected="three linearly independent vectors",
            got=f"vectors that (nearly) lie in a plane: {rows.tolist()}",
            fix="check the cell vectors; rows are vectors",
        )


def _shape_error(got: str) -> ShapeError:
    return ShapeError(
        "cell",
        expected="a (3, 3) matrix whose rows are the cell vectors, or three lengths",
        got=got,
        fix="hand over three row vectors",
    )

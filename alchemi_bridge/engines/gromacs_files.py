"""GROMACS' files at full precision: structures as ``.gro``, trajectories as ``.trr``. All in nm.

The programs' own text output has three to six digits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.constants as si

from alchemi_bridge.errors import InputError, ShapeError

#: nm in Å, and kJ/mol in eV: constants of the SI, independent of the bridge's own units.
NM = si.nano / si.angstrom
KJ_PER_MOL = si.kilo / (si.N_A * si.eV)

#: Digits behind the point in ``.gro`` files: GROMACS reads how many there are from their distance.
DIGITS = 15

#: How a frame of a ``.trr`` file begins, all in big-endian order: a number, the length of the name
#: and its padded size, the name.
_MAGIC, _NAME = 1993, b"GMX_trn_file"
_HEAD = struct.Struct(">iii12s")

#: Bytes of what is in a frame: input record, energies, box, virial, pressure, topology, symbols,
#: positions, velocities, forces; and numbers of atoms, step, further integers.
_SIZES = struct.Struct(">13i")


@dataclass(frozen=True)
class TrajectoryFrame:
    """One frame of a trajectory.

    Attributes
    ----------
    step
        Number of the step.
    time
        ps.
    box
        (3, 3) float64, rows are the vectors, nm; None if the frame has none.
    positions, velocities, forces
        (N, 3) float64 in nm, nm/ps, kJ/mol/nm; None for what the frame has not.
    """

    step: int
    time: float
    box: np.ndarray | None = None
    positions: np.ndarray | None = None
    velocities: np.ndarray | None = None
    forces: np.ndarray | None = None


def read_trr(path: Path) -> list[TrajectoryFrame]:
    """All frames of a trajectory, of either precision.

    Raises
    ------
    InputError
        If the file is none, or ends in the middle of a frame.
    """
    data = path.read_bytes()
    frames, place = [], 0
    while place < len(data):
        try:
            frame, place = _read_frame(data, place)
        except (struct.error, ValueError) as error:
            raise InputError(
                f"trajectory '{path}'",
                expected="whole frames of GROMACS' trr format",
                got=f"something else at byte {place} of {len(data)} ({error})",
                fix="see whether the run that wrote it came to its end",
            ) from error
        frames.append(frame)
    return frames


def _read_frame(data: bytes, place: int) -> tuple[TrajectoryFrame, int]:
    magic, _, _, name = _HEAD.unpack_from(data, place)
    if magic != _MAGIC or name != _NAME:
        raise ValueError("no header")
    sizes = _SIZES.unpack_from(data, place + _HEAD.size)
    place += _HEAD.size + _SIZES.size
    box, virial, pressure = sizes[2:5]
    vectors, (n_atoms, step, _) = sizes[7:10], sizes[10:]
    width = box // 9 or next((size // (3 * n_atoms) for size in vectors if size), 4)
    real = np.dtype(f">f{width}")
    time = float(np.frombuffer(data, real, 2, place)[0])
    place += 2 * width
    found: list[np.ndarray | None] = []
    for size, rows in ((box, 3), (virial, 3), (pressure, 3), *((s, n_atoms) for s in vectors)):
        values = np.frombuffer(data, real, size // width, place).astype(np.float64)
        found.append(values.reshape(rows, 3) if size else None)
        place += size
    return TrajectoryFrame(step, time, found[0], *found[3:]), place


def write_trr(path: Path, frames: Iterable[TrajectoryFrame]) -> None:
    """Write frames in double precision, which GROMACS of either precision reads.

    Raises
    ------
    ShapeError
        If an array has the wrong shape.
    """
    with path.open("wb") as file:
        for frame in frames:
            atoms = [frame.positions, frame.velocities, frame.forces]
            n_atoms = max((len(values) for values in atoms if values is not None), default=0)
            box = _bytes(frame.box, 3)
            vectors = [_bytes(values, n_atoms) for values in atoms]
            lengths = map(len, vectors)
            file.write(_HEAD.pack(_MAGIC, len(_NAME) + 1, len(_NAME), _NAME))
            sizes = (0, 0, len(box), 0, 0, 0, 0, *lengths, n_atoms, frame.step, 0)
            file.write(_SIZES.pack(*sizes))
            file.write(struct.pack(">dd", frame.time, 0.0))
            file.write(box + b"".join(vectors))


def _bytes(values: np.ndarray | None, rows: int) -> bytes:
    if values is None:
        return b""
    if values.shape != (rows, 3):
        raise ShapeError(
            "array of a trajectory's frame",
            expected=f"shape ({rows}, 3)",
            got=str(values.shape),
            fix="give all atoms three numbers, and the box three vectors",
        )
    return values.astype(">f8").tobytes()


def write_gro(
    path: Path,
    names: Sequence[str],
    positions: np.ndarray,
    box: np.ndarray,
    *,
    residues: Sequence[tuple[int, str]] | None = None,
    velocities: np.ndarray | None = None,
) -> None:
    """Write a structure with as many digits as float64 has.

    Parameters
    ----------
    path
        The file.
    names
        Name of each atom, five letters at most.
    positions
        (N, 3) float64, nm.
    box
        (3, 3) float64, rows are the vectors, lower triangular, nm; zero without a box.
    residues
        Number and name of each atom's residue; by default each atom is a residue of its name.
    velocities
        (N, 3) float64, nm/ps.

    Raises
    ------
    ShapeError
        If an array has the wrong shape.
    """
    for what, values, rows in (
        ("positions", positions, len(names)),
        ("box", box, 3),
        ("velocities", velocities, len(names)),
    ):
        if values is not None and values.shape != (rows, 3):
            raise ShapeError(
                what, expected=f"shape ({rows}, 3)", got=str(values.shape), fix="transpose it?"
            )
    kinds = residues or [(number, name) for number, name in enumerate(names, start=1)]
    columns = positions if velocities is None else np.hstack([positions, velocities])
    lines = ["made by alchemi_bridge", str(len(names))]
    for number, (name, (residue, kind), row) in enumerate(
        zip(names, kinds, columns, strict=True), start=1
    ):
        head = f"{residue % 100000:5d}{kind:<5.5}{name:>5.5}{number % 100000:5d}"
        # velocities have one digit more, in columns of the same width
        numbers = [f"{value:{DIGITS + 5}.{DIGITS}f}" for value in row[:3]]
        numbers += [f"{value:{DIGITS + 5}.{DIGITS + 1}f}" for value in row[3:]]
        lines.append(head + "".join(numbers))
    order = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    lines.append(" ".join(f"{box[place]:.{DIGITS}f}" for place in order))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

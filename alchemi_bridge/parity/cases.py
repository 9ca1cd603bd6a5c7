"""The cases: structures with a potential whose answer is known, and a user's own files."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ase import Atoms

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.parity import structures
from alchemi_bridge.parity.structures import stepped

LENNARD_JONES = "lennard-jones"
STILLINGER_WEBER = "stillinger-weber"
MESSAGE_PASSING = "message-passing"
COPPER = "copper"


@dataclass(frozen=True)
class Potential:
    """A built-in potential: a model and its oracle are made from the same options.

    Attributes
    ----------
    name
        Name in :mod:`alchemi_bridge.potentials`.
    options
        Keywords of the potential, without ``dtype``.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What is computed: some frames and a model.

    Attributes
    ----------
    name
        Name on the command line and in the report.
    description
        One line on what is special about it.
    make_frames
        Makes the structures; the same ones every time.
    potential
        The built-in potential, if it is one.
    model
        The model file, if it is a user's.
    dtype
        Precision of the built-in model; a file knows its own.
    quick
        Whether ``--quick`` takes it.
    frame_label
        How errors call a frame by its number in the file; None for a built-in case.
    """

    name: str
    description: str
    make_frames: Callable[[], list[Atoms]]
    potential: Potential | None = None
    model: pathlib.Path | None = None
    dtype: str = "float64"
    quick: bool = False
    frame_label: Callable[[int], str] | None = None

    @property
    def built_in(self) -> bool:
        """Whether the answer is known."""
        return self.potential is not None


def _two_frames(make: Callable[[], Atoms]) -> Callable[[], list[Atoms]]:
    """A structure and the same a step later: what is kept from one step to the next counts too."""

    def frames() -> list[Atoms]:
        first = make()
        return [first, stepped(first, 1)]

    return frames


def _case(
    name: str,
    description: str,
    make: Callable[[], Atoms],
    potential: str,
    options: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float64",
    quick: bool = False,
) -> Case:
    return Case(
        name=name,
        description=description,
        make_frames=_two_frames(make),
        potential=Potential(potential, options or {}),
        dtype=dtype,
        quick=quick,
    )


#: Message passing over the kinds of atoms that occur in the cases.
_ORGANIC = {"types": (1, 6, 7, 8), "cutoff": 4.0}

BUILT_IN: dict[str, Case] = {
    case.name: case
    for case in (
        _case(
            "argon",
            "liquid argon, Lennard-Jones, half list",
            structures.liquid_argon,
            LENNARD_JONES,
            quick=True,
        ),
        _case(
            "argon-f32",
            "liquid argon, Lennard-Jones in single precision",
            structures.liquid_argon,
            LENNARD_JONES,
            dtype="float32",
        ),
        _case(
            "silicon",
            "rattled silicon crystal, Stillinger-Weber, full list",
            structures.silicon,
            STILLINGER_WEBER,
        ),
        _case(
            "silicon-f32",
            "rattled silicon crystal, Stillinger-Weber in single precision",
            structures.silicon,
            STILLINGER_WEBER,
            dtype="float32",
        ),
        _case(
            "triclinic",
            "strongly skewed cell, message passing",
            structures.triclinic,
            MESSAGE_PASSING,
            _ORGANIC,
            quick=True,
        ),
        _case(
            "slab",
            "silicon slab, periodic in x and y, atoms beyond its box, Stillinger-Weber",
            structures.slab,
            STILLINGER_WEBER,
        ),
        _case(
            "molecule",
            "C60 without a cell, message passing",
            structures.fullerene,
            MESSAGE_PASSING,
            _ORGANIC,
            quick=True,
        ),
        _case(
            "small-cell",
            "2 atoms in a cell smaller than the cutoff, Lennard-Jones, truncated",
            structures.small_cell,
            LENNARD_JONES,
            {"truncation": "none", "full_list": True},
            quick=True,
        ),
        _case(
            "one-atom",
            "primitive cell: all neighbours are images of the atom itself, Lennard-Jones",
            structures.one_atom,
            LENNARD_JONES,
            {"strict": False},
        ),
        _case(
            "mixed-species",
            "four kinds of atoms, many outside the cell, message passing",
            structures.mixture,
            MESSAGE_PASSING,
            _ORGANIC,
        ),
        _case(
            "mixed-f32",
            "four kinds of atoms, message passing in single precision",
            structures.mixture,
            MESSAGE_PASSING,
            _ORGANIC,
            dtype="float32",
        ),
        _case(
            "left-handed",
            "cell whose rows are left-handed, Stillinger-Weber, request with strict=False",
            structures.left_handed,
            STILLINGER_WEBER,
            {"strict": False},
            quick=True,
        ),
        _case(
            "copper",
            "copper crystal, strained and hot, a DeePMD model that was trained with this package",
            structures.copper,
            COPPER,
        ),
    )
}


def select(names: Sequence[str] = (), *, quick: bool = False) -> list[Case]:
    """Built-in cases by name, in the order of the registry; all (or the quick ones) for no name.

    Raises
    ------
    ConfigurationError
        If a name is unknown.
    """
    unknown = [name for name in names if name not in BUILT_IN]
    if unknown:
        raise ConfigurationError(
            "case",
            expected=f"one of {', '.join(BUILT_IN)}",
            got=f"'{unknown[0]}'",
            fix="choose one of them; 'alchemi-bridge parity --list' describes them",
        )
    chosen = [case for case in BUILT_IN.values() if not names or case.name in names]
    return [case for case in chosen if case.quick or not quick or case.name in names]


def user_case(
    name: str,
    model: pathlib.Path,
    frames: Iterable[Atoms],
    frame_label: Callable[[int], str] | None = None,
) -> Case:
    """A case of a user's own model and structures.

    Parameters
    ----------
    name
        Name in the report: the structure file's.
    model
        The model file.
    frames
        The frames of the file. A single one is followed by itself a step later, so that what is
        kept from one step to the next is compared too.
    frame_label
        How errors call a frame by its number (default: by ``name`` and number).
    """
    made = list(frames)
    several = f"{len(made)} frames" if len(made) != 1 else f"{len(made[0])} atoms"
    if len(made) == 1:
        made.append(stepped(made[0], 1))
    return Case(
        name=name,
        description=f"{name}, {several}, with {model.name}",
        make_frames=lambda: [atoms.copy() for atoms in made],
        model=model,
        frame_label=frame_label or (lambda number: f"'{name}', frame {number}"),
    )

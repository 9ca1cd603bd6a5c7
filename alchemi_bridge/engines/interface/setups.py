"""A setup file's contents as the structure that C callers get."""

from __future__ import annotations

import ctypes
import os

from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface.reading import to_c
from alchemi_bridge.engines.setup_file import Setup

#: In ``periodic``: the engine knows.
UNTOLD = (-1, -1, -1)


def filled(setup: Setup) -> structs.Setup:
    """The structure; it keeps what it points to."""
    words = [to_c(word) for pair in setup.keywords.items() for word in pair]
    n_atoms = len(setup.atoms)
    return structs.Setup(
        n_keywords=len(setup.keywords),
        model=os.fsencode(setup.model),
        keywords=(ctypes.c_char_p * len(words))(*words),
        energies=None if setup.energies is None else os.fsencode(setup.energies),
        atoms=(ctypes.c_int64 * n_atoms)(*setup.atoms.tolist()),
        types=(ctypes.c_int32 * n_atoms)(*setup.types.tolist()),
        n_atoms=n_atoms,
        every=setup.every,
        skin=setup.skin,
        periodic=UNTOLD if setup.periodic is None else setup.periodic,
        unchecked=setup.unchecked,
    )

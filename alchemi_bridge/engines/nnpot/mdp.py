"""Lines for the mdp file that go with a file for GROMACS' nnpot module."""

from __future__ import annotations

import ase.data

from alchemi_bridge.engines.nnpot.export import BOX, Exported
from alchemi_bridge.engines.nnpot.reach import pair_cutoff

HYDROGEN = 1


def mdp_lines(exported: Exported) -> list[str]:
    """Options of the mdp file, with comments."""
    options = [
        ("nnpot-active", "true"),
        ("nnpot-modelfile", str(exported.path)),
        ("nnpot-input-group", "System"),
        *((f"nnpot-model-input{n}", name) for n, name in enumerate(exported.inputs, start=1)),
    ]
    notes = [f"without periodicity, leave {' and '.join(BOX)} out"]
    if exported.contract == "2026":
        reach = f"{pair_cutoff(exported.cutoff, exported.skin):g}"
        options.append(("nnpot-pair-cutoff", reach))
        notes.append(
            f"nnpot-pair-cutoff: cutoff {exported.cutoff:g} nm and buffer {exported.skin:g} nm, "
            "rounded up; where it is shorter, the file searches pairs by itself"
        )
        notes.append(
            f"rlist must be {reach} or more, and less than half of the box (set it, with "
            "verlet-buffer-tolerance = -1)"
        )
        notes.append("with link atoms, export with --contract 2025: pairs of theirs are not listed")
    notes.append(
        "a bond with a link atom must not cross a face of the box: GROMACS places link atoms "
        "without periodicity"
    )
    element = link_type(exported)
    if element is not None:
        # an option that 2025 does not know, which reads as a mistake there
        options.append(
            (("; 2026: " if exported.contract == "2025" else "") + "nnpot-link-type", element)
        )
        notes.append("grompp tries the model with that element, whose default is H")
    width = max(len(name) for name, _ in options)
    lines = [f"{name:<{width}} = {value}" for name, value in options]
    return [*lines, *(f"; {note}" for note in notes), "; no virial comes from nnpot: pcoupl = no"]


def link_type(exported: Exported) -> str | None:
    """An element that the model knows, if it does not know hydrogen."""
    elements = [n for n in exported.types if 1 <= n < len(ase.data.chemical_symbols)]
    if HYDROGEN in elements or not elements:
        return None
    return str(ase.data.chemical_symbols[elements[0]])

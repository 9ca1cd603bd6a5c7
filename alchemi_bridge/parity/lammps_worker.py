"""``python -m alchemi_bridge.parity.lammps_worker``: serves one path through LAMMPS."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import chemical_symbols

from alchemi_bridge.engines import lammps_plugin
from alchemi_bridge.engines.lammps_box import LammpsBox, PairCommands
from alchemi_bridge.engines.lammps_library import start
from alchemi_bridge.parity.cases import LENNARD_JONES, STILLINGER_WEBER, Potential
from alchemi_bridge.parity.keywords import keywords
from alchemi_bridge.parity.paths import Evaluator
from alchemi_bridge.parity.remote import serve
from alchemi_bridge.parity.results import PathResult

#: LAMMPS' pair styles by how Lennard-Jones is cut off, and what has to be said besides.
LJ_STYLES = {
    "none": ("lj/cut", "pair_modify shift no"),
    "energy-shift": ("lj/cut", "pair_modify shift yes"),
    "force-shift": ("lj/smooth/linear", None),
}


class BoxEvaluator(Evaluator):
    """A potential in LAMMPS."""

    def __init__(self, box: LammpsBox, expected: Collection[str]) -> None:
        self._box = box
        self._virial = "virial" in expected
        self._energies = "energies" in expected

    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        results = []
        for atoms in frames:
            found = self._box.evaluate(atoms, virial=self._virial, energies=self._energies)
            results.append(PathResult(found.energy, found.forces, found.virial, found.energies))
        return results

    def step(self, atoms: Atoms) -> float:
        return self._box.step(atoms)


def make(kind: str, *arguments: Any) -> Evaluator:
    """The evaluator that the path asks for: the bridge's pair style, or a potential of LAMMPS."""
    return _alchemi(*arguments) if kind == "alchemi" else _native(*arguments)


def _alchemi(
    model_file: str, options: Mapping[str, Any], expected: Collection[str]
) -> BoxEvaluator:

    def opened() -> Any:
        lmp = start()
        lammps_plugin.load(lmp)
        return lmp

    style = " ".join([f"pair_style alchemi {quoted(model_file)}", "device cpu", *words_of(options)])

    def pair(kinds: Sequence[int]) -> list[str]:
        return [style, "pair_coeff * * " + " ".join(map(str, kinds))]

    return BoxEvaluator(LammpsBox(pair, opened=opened), expected)


def quoted(text: str) -> str:
    """A word of LAMMPS' input, with quotes where it needs them."""
    return f'"{text}"' if any(c.isspace() or c in "#&$'" for c in text) else text


def words_of(options: Mapping[str, Any]) -> list[str]:
    """The calculators' options as words of the pair style.

    Raises
    ------
    ConfigurationError
        If there is no keyword for one of them.
    """
    return [word for pair in keywords(options, "lammps").items() for word in map(quoted, pair)]


def _native(name: str, numbers: Mapping[str, Any], expected: Collection[str]) -> BoxEvaluator:
    pair = lennard_jones(numbers) if name == LENNARD_JONES else stillinger_weber(numbers)
    return BoxEvaluator(LammpsBox(pair), expected)


def numbers_of(potential: Potential) -> Mapping[str, Any]:
    """All options of a potential, also those that the case leaves at their defaults.

    They are read from the potential's signature, so that a changed default reaches LAMMPS, too.
    """
    from alchemi_bridge import potentials

    functions: dict[str, Callable[..., Any]] = {
        LENNARD_JONES: potentials.lennard_jones,
        STILLINGER_WEBER: potentials.stillinger_weber,
    }
    known = inspect.signature(functions[potential.name]).parameters
    return {name: value.default for name, value in known.items()} | dict(potential.options)


def lennard_jones(numbers: Mapping[str, Any]) -> PairCommands:
    """LAMMPS' Lennard-Jones. Every pair is given, and none left to LAMMPS' rules of mixing.

    Parameters
    ----------
    numbers
        All options of :func:`alchemi_bridge.potentials.lennard_jones`.
    """
    single = {
        kind: (float(e), float(s))
        for kind, e, s in zip(numbers["types"], numbers["epsilon"], numbers["sigma"], strict=True)
    }
    special = {tuple(sorted(k)): tuple(v) for k, v in (numbers["pairs"] or {}).items()}
    style, modify = LJ_STYLES[numbers["truncation"]]

    def pair(kinds: Sequence[int]) -> list[str]:
        lines = [f"pair_style {style} {float(numbers['cutoff'])!r}"]
        for i, a in enumerate(kinds, start=1):
            for j, b in enumerate(kinds[i - 1 :], start=i):
                (e_a, s_a), (e_b, s_b) = single[a], single[b]
                mixed = ((e_a * e_b) ** 0.5, 0.5 * (s_a + s_b))
                epsilon, sigma = special.get((min(a, b), max(a, b)), mixed)
                lines.append(f"pair_coeff {i} {j} {epsilon!r} {sigma!r}")
        return [*lines, modify] if modify else lines

    return pair


def stillinger_weber(numbers: Mapping[str, Any]) -> PairCommands:
    """LAMMPS' Stillinger-Weber, with a file of parameters for each instance of LAMMPS.

    Parameters
    ----------
    numbers
        All options of :func:`alchemi_bridge.potentials.stillinger_weber`.
    """
    folder = tempfile.TemporaryDirectory()
    order = ("epsilon", "sigma", "a", "lam", "gamma", "costheta0", "A", "B", "p", "q")
    symbol = chemical_symbols[numbers["atomic_type"]]
    values = " ".join(repr(float(numbers[name])) for name in order)

    def pair(kinds: Sequence[int]) -> list[str]:
        del kinds  # one: the oracle and the model refuse others, and so does the file
        path = Path(folder.name) / "parameters.sw"
        # the last number is a tolerance: 0 takes everything up to the cutoff
        path.write_text(f"{symbol} {symbol} {symbol} {values} 0.0\n", encoding="utf-8")
        return ["pair_style sw", f"pair_coeff * * {quoted(str(path))} {symbol}"]

    return pair


if __name__ == "__main__":
    serve(make)

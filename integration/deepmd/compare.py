"""Convert the frozen models, and compare with what DeePMD-kit said of them.

Runs where alchemi_bridge is installed: ``python compare.py FOLDER RESULTS.json``. Exit status 1 if
a difference is above its limit.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import metatomic.torch
import numpy as np
import torch
from ase import Atoms
from cases import MODELS, single, structures

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.errors import ModelLoadError
from alchemi_bridge.potentials.deepmd import convert

#: eV per atom, eV/Å and eV. In float32 rounding is 6e-8 of energies of a few eV, and of sums over
#: some hundred neighbours.
LIMITS = {"energy": 1e-10, "forces": 1e-10, "virial": 1e-9}
LIMITS_FLOAT32 = {"energy": 1e-6, "forces": 1e-5, "virial": 1e-4}


def differences(path: Path, type_map: list[str], reference: Any) -> dict[str, float]:
    """Largest differences over all structures, and the largest force for scale."""
    worst = {"energy": 0.0, "forces": 0.0, "virial": 0.0, "largest_force": 0.0}
    for label, structure in structures(len(type_map)).items():
        periodic = bool(structure["cell"].any())
        atoms = Atoms(
            [type_map[t] for t in structure["types"]],
            positions=structure["positions"],
            cell=structure["cell"],
            pbc=periodic,
        )
        atoms.calc = BridgeCalculator(path)
        found = {
            "energy": np.array(atoms.get_potential_energies() - reference[f"{label}/energies"]),
            "forces": atoms.get_forces() - reference[f"{label}/forces"],
        }
        if periodic:
            virial = atoms.get_stress(voigt=False) * atoms.get_volume()
            theirs = reference[f"{label}/virial"]
            found["virial"] = virial - 0.5 * (theirs + theirs.T)
        for name, difference in found.items():
            worst[name] = max(worst[name], float(np.abs(difference).max()))
        worst["largest_force"] = max(
            worst["largest_force"], float(np.abs(reference[f"{label}/forces"]).max())
        )
    return worst


def compare(folder: Path) -> list[dict[str, Any]]:
    """One entry for each model and code."""
    entries = []
    for name, (type_map, _, _) in MODELS.items():
        limits = LIMITS_FLOAT32 if single(name) else LIMITS
        codes = ("native", "deepmd") if name.startswith("se_e2_a") else ("deepmd",)
        for code in codes:
            done = convert(folder / f"{name}.pth", folder / "converted.pt", code=code)
            with np.load(folder / f"{name}.npz") as reference:
                worst = differences(done.path, type_map, reference)
            good = all(worst[key] <= limit for key, limit in limits.items())
            entries.append({"model": name, "code": code, **worst, "limits": limits, "good": good})
    return entries


def compare_operators(folder: Path) -> list[dict[str, Any]]:
    """Files frozen with DeePMD-kit's operators: taken, with the same results; compressed: not."""
    entries = []
    for path in sorted((folder / "operators").glob("*.pth")):
        kind, _, name = path.stem.partition("-of-")
        try:
            done = convert(path, folder / "converted.pt", code="deepmd")
        except ModelLoadError as error:
            good = kind == "compressed" and "compressed" in error.got
            entries.append({"model": path.stem, "refused": error.got, "good": good})
            continue
        with np.load(folder / f"{name}.npz") as reference:
            worst = differences(done.path, MODELS[name][0], reference)
        good = kind == "frozen" and all(worst[key] <= limit for key, limit in LIMITS.items())
        removed = list(done.operators)
        entries.append({"model": path.stem, "removed": removed, **worst, "good": good})
    return entries


def main(folder: Path, results: Path) -> int:
    """Write the results, print them as a table; the exit status."""
    document = {
        "versions": {
            "deepmd-kit": (folder / "version.txt").read_text().strip(),
            "torch": torch.__version__,
            "metatomic-torch": metatomic.torch.__version__,
            "python": platform.python_version(),
        },
        "units": {"energy": "eV per atom", "forces": "eV/angstrom", "virial": "eV"},
        "converted": compare(folder),
        "operators": compare_operators(folder),
        "native_weights_in_deepmd": json.loads((folder / "native.json").read_text()),
        # relative to the largest number of the kind
        "training": json.loads((folder / "training.json").read_text()),
        "time_of_a_training_step": json.loads((folder / "time_step.json").read_text()),
    }
    results.write_text(json.dumps(document, indent=2) + "\n")
    print("| model | code | energy (eV/atom) | forces (eV/Å) | virial (eV) |")
    print("|---|---|---|---|---|")
    for entry in document["converted"]:
        numbers = " | ".join(f"{entry[key]:.1e}" for key in LIMITS)
        print(f"| {entry['model']} | {entry['code']} | {numbers} |")
    sections = ("converted", "operators", "native_weights_in_deepmd", "training")
    sections += ("time_of_a_training_step",)
    bad = [e["model"] for section in sections for e in document[section] if not e["good"]]
    for model in bad:
        print(f"not as expected: {model}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

"""Load weights of this package into DeePMD-kit's models, and compare the energies of the atoms.

``python load_native.py FOLDER``, in an environment with deepmd-kit; writes ``native.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from cases import model_section, structures
from deepmd import __version__
from deepmd.pt.model.model import get_model

LIMIT = 1e-10  # eV

#: What DeePMD-kit keeps beside the weights.
ASIDE = ("min_nbor_dist", ".compress_info.", ".compress_data.")


def main(folder: Path) -> None:
    """Compare all that is there."""
    entries = []
    for path in sorted(folder.glob("*-native.npz")):
        name = path.stem.removesuffix("-native")
        with np.load(path) as file:
            arrays = dict(file)
        weights = {
            key.removeprefix("weights/"): torch.from_numpy(array)
            for key, array in arrays.items()
            if key.startswith("weights/")
        }
        section = model_section(name)
        model = get_model(section).eval()
        missing, unexpected = model.load_state_dict(weights, strict=False)
        left = [key for key in missing if not any(part in key for part in ASIDE)] + unexpected
        worst = 0.0
        for label, structure in structures(len(section["type_map"])).items():
            periodic = structure["cell"].any()
            found = model(
                torch.from_numpy(structure["positions"])[None],
                torch.from_numpy(structure["types"])[None],
                torch.from_numpy(structure["cell"]).reshape(1, 9) if periodic else None,
            )
            theirs = found["atom_energy"].detach().numpy().reshape(-1)
            worst = max(worst, float(np.abs(theirs - arrays[f"energies/{label}"]).max()))
        good = not left and worst <= LIMIT
        entries.append({"model": name, "energy": worst, "left_over": left, "good": good})
    (folder / "native.json").write_text(json.dumps(entries, indent=2))
    (folder / "version.txt").write_text(__version__)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What GROMACS does with a file for nnpot, in a process that knows torch alone.

``python nnpot_loader.py FOLDER`` reads ``requests.json`` and ``arrays.npz`` there and writes
``results.npz`` and ``results.json``. Neither this project nor metatensor or metatomic are imported:
their libraries come from the record of each file.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

FOREIGN = ("alchemi_bridge", "metatensor", "metatomic", "ase")


def load(path: str) -> torch.jit.ScriptModule:
    """Open the libraries of the record in its order, then the file."""
    with zipfile.ZipFile(path) as archive:
        (entry,) = [n for n in archive.namelist() if n.endswith("/extra/extension_libs")]
        names = archive.read(entry).decode().split(":")
    for name in names:
        ctypes.CDLL(name, mode=os.RTLD_LAZY)
    return torch.jit.load(path, map_location="cpu").eval()


def call(module: torch.jit.ScriptModule, arrays: dict[str, np.ndarray], names: list[str]) -> tuple:
    """Energy and forces, as ``TorchModel::evaluateModel`` takes them."""
    inputs = []
    for name in names:
        tensor = torch.from_numpy(arrays[name])
        if name == "atom-positions":
            tensor = tensor.to(torch.float32).requires_grad_(True)
        elif name == "box":
            tensor = tensor.to(torch.float32)
        inputs.append(tensor)
    outputs = module(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    if len(outputs) > 1:
        forces = outputs[1]
    else:
        outputs[0].backward()
        forces = -1.0 * inputs[0].grad
    return outputs[0].item(), forces.to(torch.float32).numpy(), forces.detach().numpy()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    requests = json.loads((folder / "requests.json").read_text())
    arrays = np.load(folder / "arrays.npz")
    found: dict[str, np.ndarray] = {}
    facts: list[dict] = []
    for r, request in enumerate(requests):
        # 2026.2 and later switch the optimisation of graphs off
        torch._C._set_graph_executor_optimize(request["optimize"])
        module = load(request["file"])
        fact: dict = {"errors": []}
        for c in range(request["calls"]):
            given = {n: arrays[f"{r}-{c}-{n}"] for n in request["inputs"]}
            try:
                energy, rounded, forces = call(module, given, request["inputs"])
            except (RuntimeError, torch.jit.Error) as error:
                fact["errors"].append(str(error))
                continue
            assert rounded.shape == given["atom-positions"].shape
            found[f"{r}-{c}-energy"], found[f"{r}-{c}-forces"] = np.array(energy), forces
        for name in ("searches", "lists", "refused"):
            fact[name] = getattr(module, name, None)
        facts.append(fact)
    imported = [name for name in FOREIGN if name in sys.modules]
    np.savez(folder / "results.npz", **found)
    (folder / "results.json").write_text(json.dumps({"imported": imported, "facts": facts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Label, train, freeze, and put the model through its paces, in one command.

    python examples/deepmd/make_model.py                   # copper: about a minute
    python examples/deepmd/make_model.py --system water    # many minutes; needs tblite

The commands are printed as they are run, and can be typed one by one. ``--store`` writes what comes
with the package: the model, its weights, and the recipe with errors and hashes.
"""

import argparse
import hashlib
import importlib
import io
import json
import platform
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch

from alchemi_bridge.potentials import trained
from alchemi_bridge.potentials.deepmd import to_deepmd
from alchemi_bridge.training import find_systems, read_system
from alchemi_bridge.training.checkpoint import load, numbered

HERE = Path(__file__).resolve().parent
#: Frames of each validation system that go through parity.
N_PARITY = 2
#: The input files have it, too.
CHECKPOINT = "model.ckpt"
ABOUT = {
    "copper": "copper as ASE's EMT potential sees it, se_e2_a",
    "water": "water as GFN1-xTB sees it, se_e2_a",
}
UNITS = {"energy": "eV/atom", "force": "eV/Å", "virial": "eV/atom"}


def run(folder: Path, *words: str) -> dict[str, Any]:
    """Run a command of alchemi-bridge in a folder and return its document."""
    print("$ alchemi-bridge", *words, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "alchemi_bridge.cli.main", *words, "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):  # 1: it has found something that is off, and says so
        raise SystemExit(f"alchemi-bridge {words[0]} ended with status {done.returncode}")
    return json.loads(done.stdout)


def processor_seconds() -> float:
    """Of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def label(system: str, folder: Path) -> None:
    """Make the data, unless they are there, whole and of this very script."""
    script, data = HERE / f"label_{system}.py", folder / system
    made_by = data / "label_script.sha256"
    if data.exists():
        if not made_by.exists() or made_by.read_text() != sha256(script):
            raise SystemExit(f"'{data}' was not made by the present {script.name}: move it away")
        print(f"data of {data} are used as they are")
        return
    print(f"$ python examples/deepmd/{script.name} {data}", flush=True)
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        importlib.import_module(script.stem).main(Path(temporary) / system)
        (Path(temporary) / system / made_by.name).write_text(sha256(script))
        (Path(temporary) / system).rename(data)


def reproducible(path: Path) -> None:
    """Take from a model file what differs from run to run: the date, and where sources were."""
    read = torch._C.PyTorchFileReader(str(path))
    buffer = io.BytesIO()
    written = torch._C.PyTorchFileWriter(buffer)
    for name in sorted(read.get_all_records()):
        # the writer adds the last two itself
        own = name in ("extra/export-metadata", "version", ".data/serialization_id")
        if not own and not name.endswith(".debug_pkl"):
            content = read.get_record(name)
            written.write_record(name, content, len(content))
    written.write_end_of_file()
    path.write_bytes(buffer.getvalue())


def frames_for_parity(system: str, folder: Path) -> list[str]:
    """Some validation frames of each size, as files of structures."""
    found = []
    for place in find_systems(folder / system / "validation"):
        names = (place / "type_map.raw").read_text().split()
        data = read_system(place, names)
        frames = [
            ase.Atoms([names[t] for t in data.types], x, cell=cell, pbc=True)
            for x, cell in zip(data.coordinates[:N_PARITY], data.cells[:N_PARITY], strict=True)
        ]
        found.append(f"parity-{place.name}.xyz")
        ase.io.write(folder / found[-1], frames, format="extxyz")
    return found


def make(system: str, folder: Path) -> tuple[dict[str, Any], bool]:
    """Everything up to parity; the recipe with its results, and whether all is well."""
    label(system, folder)
    source, model = HERE / f"{system}.json", f"{system}.pt"
    (folder / source.name).write_bytes(source.read_bytes())

    before = processor_seconds()
    done = run(folder, "train", source.name, "--device", "cpu", "--threads", "1")
    seconds = processor_seconds() - before
    print(f"  {done['steps']} steps, {seconds:.0f} s of processor time")
    errors, n_frames = {}, {}
    for part in ("training", "validation"):
        tested = run(folder, "test", CHECKPOINT, f"{system}/{part}")["all"]
        errors[part], n_frames[part] = tested["rmse"], tested["frames"]
        rmse = [f"{name} {1e3 * e:.1f} m{UNITS[name]}" for name, e in tested["rmse"].items()]
        print(f"  RMSE of {tested['frames']} frames: {', '.join(rmse)}")
    run(folder, "freeze", CHECKPOINT, model)
    reproducible(folder / model)
    # a made-up structure may have more neighbours than the model takes, and no smooth energy then
    frames = frames_for_parity(system, folder)
    verified = run(folder, "verify", model, frames[0])
    for check in verified["checks"]:
        print(f"  {check['status']:<5} {check['title']}")
    compared = run(folder, "parity", model, *frames, "-o", "parity")
    print_parity(compared)

    packages = ("torch", "metatomic-torch", "metatensor-torch", "numpy", "ase")
    recipe = {
        "about": ABOUT[system],
        "commands": [
            f"python examples/deepmd/label_{system}.py",
            f"alchemi-bridge train examples/deepmd/{system}.json --device cpu --threads 1",
            f"alchemi-bridge freeze {CHECKPOINT} {model}",
            "without records of date and source files: examples/deepmd/make_model.py, reproducible",
        ],
        "files": {name: sha256(HERE / name) for name in (source.name, f"label_{system}.py")},
        "seed": json.loads(source.read_text())["training"]["seed"],
        "steps": done["steps"],
        "processor_seconds": round(seconds, 1),
        "frames": n_frames,
        "units": UNITS,
        "rmse": errors,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "model": load(folder / CHECKPOINT).definition.to_deepmd(),
        "sha256": {model: sha256(folder / model)},
    }
    return recipe, bool(verified["passed"] and compared["passed"])


def print_parity(report: dict[str, Any]) -> None:
    """How far the forces of all paths are apart."""
    for case in report["cases"]:
        print(f"  {case['name']}, {case['atoms']} atoms, against {case['reference']}:")
        for path in case["paths"]:
            said = "; ".join(path["failures"]) or f"forces {path['max_force_error']:.0e} eV/Å"
            print(f"    {path['name']:<18} {said}")
        for path in case["skipped"]:
            print(f"    {path['name']:<18} - ({path['reason']})")


def store(system: str, folder: Path, recipe: dict[str, Any], place: Path) -> None:
    """Write the model, its weights and the recipe, as :mod:`alchemi_bridge.potentials.trained`."""
    found = load(folder / CHECKPOINT)
    weights = to_deepmd(found.build(), found.definition)
    # a second name of the nets is left out
    arrays = {f"weights/{k}": v.numpy() for k, v in weights.items() if "._networks." not in k}
    definition = np.array(json.dumps(recipe["model"]))
    np.savez(place / f"{system}.npz", definition=definition, **arrays)
    (place / f"{system}.pt").write_bytes((folder / f"{system}.pt").read_bytes())
    recipe["sha256"][f"{system}.npz"] = sha256(place / f"{system}.npz")
    text = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
    (place / f"{system}.json").write_text(text, encoding="utf-8")
    print(f"stored in {place}")


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--system", choices=sorted(ABOUT), default="copper")
    parser.add_argument("--folder", type=Path, help="where to work, and to leave all files")
    parser.add_argument(
        "--store", metavar="FOLDER", type=Path, nargs="?", const=trained.FOLDER,
        help="store the result there (by default in the package)",
    )  # fmt: skip
    settings = parser.parse_args()
    if settings.store is not None and not settings.store.is_dir():
        raise SystemExit(f"--store: a folder that exists is expected, not '{settings.store}'")
    if settings.folder is not None and numbered(settings.folder / CHECKPOINT):
        raise SystemExit(
            f"--folder: '{settings.folder}' has a training already; choose another one, or remove "
            f"{CHECKPOINT}-*.pt and lcurve.csv from it"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = (settings.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        recipe, well = make(settings.system, folder)
        print("all is well" if well else "something is off, see above")
        if well and settings.store is not None:
            store(settings.system, folder, recipe, settings.store)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())

"""Run by mpiexec: the pair style against LAMMPS' own, on as many ranks as there are.

``python lammps_agreement.py FOLDER`` expects the models of ``lammps_parts.export_models`` in
FOLDER, and writes what it found there, one JSON file for each number of ranks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from alchemi_bridge.engines import lammps_plugin
from alchemi_bridge.engines.lammps_library import start

PRESSURES = ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz")
STEPS = 100

#: Names of the two potentials with a native twin: pair commands of LAMMPS and of the bridge, the
#: lattice, the temperature.
TWINS = {
    "lj": (
        ("pair_style lj/cut 6.0", "pair_coeff * * 0.0104 3.4", "pair_modify shift yes"),
        ("pair_style alchemi {folder}/lj.pt device cpu", "pair_coeff * * 18"),
        ("fcc 5.3", "39.948", 80.0),
    ),
    "sw": (
        ("pair_style sw", "pair_coeff * * {folder}/Si.sw Si"),
        ("pair_style alchemi {folder}/sw.pt", "pair_coeff * * 14"),
        ("diamond 5.431", "28.085", 600.0),
    ),
}


def crystal(
    lattice: str,
    mass: str,
    triclinic: bool,
    newton: str,
    cells: int | tuple[int, int, int] = 3,
) -> list[str]:
    """Commands for a shaken crystal."""
    a, b, c = (cells,) * 3 if isinstance(cells, int) else cells
    shape = f"prism 0 {a} 0 {b} 0 {c} 0.7 -0.6 0.8" if triclinic else (f"block 0 {a} 0 {b} 0 {c}")
    return [
        "units metal",
        f"newton {newton}",
        "atom_modify map array",
        f"lattice {lattice}",
        f"region box {shape}",
        "create_box 1 box",
        "create_atoms 1 box",
        f"mass 1 {mass}",
        "reset_atoms id sort yes",  # else IDs depend on the number of ranks
        "displace_atoms all random 0.1 0.1 0.1 37",
        "neighbor 1.0 bin",
    ]


def opened(commands: list[str]) -> Any:
    lmp = start()
    lammps_plugin.load(lmp)
    for line in commands:
        lmp.command(line)
    return lmp


def state(lmp: Any) -> dict[str, Any]:
    """Energy, pressure and forces by id, on every rank."""
    n = lmp.get_natoms()
    return {
        "energy": lmp.get_thermo("pe"),
        "pressure": np.array([lmp.get_thermo(name) for name in PRESSURES]),
        "forces": np.array(lmp.gather_atoms("f", 1, 3)).reshape(n, 3),
        "positions": np.array(lmp.gather_atoms("x", 1, 3)).reshape(n, 3),
    }


def run_twin(pair: list[str], box: list[str], temperature: float) -> dict[str, Any]:
    """Before and after a short run at constant energy."""
    lmp = opened([*box, *pair, f"velocity all create {temperature} 4711", "timestep 0.002"])
    lmp.command("fix nve all nve")
    lmp.command("thermo_style custom step pe " + " ".join(PRESSURES))
    lmp.command("run 0")
    begin = state(lmp)
    lmp.command(f"run {STEPS}")
    end = state(lmp)
    lmp.close()
    return {"begin": begin, "end": end}


def deviation(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float]:
    """Largest differences, relative to the largest number of each kind."""
    found = {}
    for key in ("energy", "pressure", "forces"):
        x, y = np.atleast_1d(a[key]), np.atleast_1d(b[key])
        found[key] = float(np.abs(x - y).max() / np.abs(y).max())
    found["positions"] = float(np.abs(a["positions"] - b["positions"]).max())
    return found


def twins(folder: Path) -> dict[str, Any]:
    results = {}
    for name, (native, bridge, (lattice, mass, temperature)) in TWINS.items():
        native, bridge = ([line.format(folder=folder) for line in p] for p in (native, bridge))
        for triclinic in (False, True):
            # LAMMPS' sw can not do without newton
            box = crystal(lattice, mass, triclinic, "on")
            expected = run_twin(native, box, temperature)
            for newton in ("on", "off"):
                box = crystal(lattice, mass, triclinic, newton)
                found = run_twin(bridge, box, temperature)
                key = f"{name}-{'triclinic' if triclinic else 'cubic'}-newton-{newton}"
                results[key] = {
                    when: deviation(found[when], expected[when]) for when in ("begin", "end")
                }
    return results


#: Models with messages: cells of fcc along each axis. The long box has ghosts whose rows are left
#: out; of two lists with different cutoffs one may need rows that the other does not.
NETS = {
    "net": ("fcc 5.3", (3, 3, 3)),
    "net-long": ("fcc 4.2", (9, 2, 2)),
    "short-long": ("fcc 5.0", (5, 2, 2)),
    "long-short": ("fcc 5.0", (5, 2, 2)),
}


FILES = {"net-long": "net"}


def nets(folder: Path) -> dict[str, Any]:
    """Models with messages: energies, forces and pressure for the test to compare."""
    results = {}
    for model, (lattice, cells) in NETS.items():
        for shape, newton in (("cubic", "on"), ("triclinic", "on"), ("triclinic", "off")):
            lmp = opened(
                [
                    *crystal(lattice, "28.0", shape == "triclinic", newton, cells),
                    f"pair_style alchemi {folder}/{FILES.get(model, model)}.pt",
                    "pair_coeff * * 14",
                    "compute energies all pe/atom",
                    "compute sum all reduce sum c_energies",
                    "thermo_style custom step pe c_sum " + " ".join(PRESSURES),
                    "run 0",
                ]
            )
            found = {key: np.asarray(value).tolist() for key, value in state(lmp).items()}
            found["energies"] = np.array(lmp.gather("c_energies", 1, 1)).tolist()
            found["box"] = list(lmp.extract_box()[:5])
            results[f"{model}-{shape}-newton-{newton}"] = found
            lmp.close()
    return results


def main() -> None:
    folder = Path(sys.argv[1])
    comm = MPI.COMM_WORLD
    found = {"twins": twins(folder), "nets": nets(folder)}
    if comm.Get_rank() == 0:
        (folder / f"agreement-{comm.Get_size()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()

"""Run by mpiexec: what else users do with a pair style, each with a number that it has to give.

``python lammps_features.py FOLDER`` expects the models of ``lammps_parts`` in FOLDER. Every check
is a function that returns numbers or texts; they end up in one JSON file for each number of ranks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.constants as si
from lammps_agreement import PRESSURES, crystal, deviation, opened, state
from mpi4py import MPI

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
RANKS = MPI.COMM_WORLD.Get_size()

NATIVE = ("pair_style lj/cut 6.0", "pair_coeff * * 0.0104 3.4", "pair_modify shift yes")
BRIDGE = (f"pair_style alchemi {FOLDER}/lj.pt", "pair_coeff * * 18")

CHECKS: dict[str, Callable[[], Any]] = {}


def check(function: Callable[[], Any]) -> Callable[[], Any]:
    CHECKS[function.__name__] = function
    return function


def argon(*commands: str, triclinic: bool = False, newton: str = "on", cells: int = 3) -> Any:
    box = crystal("fcc 5.3", "39.948", triclinic, newton, cells)
    thermo = "thermo_style custom step pe " + " ".join(PRESSURES)
    pair = [line for line in commands if line.startswith("pair_")]
    return opened([*box, *pair, thermo, *(line for line in commands if line not in pair)])


def both(*commands: str, **box: Any) -> dict[str, float]:
    """After the same commands: how far the pair style is from LAMMPS' own."""
    found = []
    for pair in (NATIVE, BRIDGE):
        lmp = argon(*pair, *commands, **box)
        found.append(state(lmp))
        lmp.close()
    return deviation(found[1], found[0])


def said(run: Callable[[], Any]) -> str:
    """The error of a call, the same on all ranks."""
    try:
        run()
    except Exception as error:
        texts = MPI.COMM_WORLD.allgather(str(error))
        assert len(set(texts)) == 1, texts
        return texts[0]
    return ""


# --- numbers --------------------------------------------------------------------------------------


@check
def units() -> Any:
    """Energy in eV of the same crystal in all unit styles."""
    angstrom = {"metal": 1.0, "real": 1.0, "si": 1e-10, "electron": 1.0 / 0.529177210903}
    kcal = 1e3 * si.calorie / (si.N_A * si.eV)
    hartree = si.value("Hartree energy in eV")
    ev = {"metal": 1.0, "real": kcal, "si": 1.0 / si.eV, "electron": hartree}
    found = {}
    for name, length in angstrom.items():
        lmp = opened(
            [
                f"units {name}",
                "atom_modify map array",
                f"lattice fcc {5.3 * length!r}",
                "region box block 0 3 0 3 0 3",
                "create_box 1 box",
                "create_atoms 1 box",
                "mass 1 39.948",
                "reset_atoms id sort yes",
                "group some id 5:40:7",
                f"displace_atoms some move {0.3 * length!r} {-0.2 * length!r} 0.0 units box",
                f"neighbor {length!r} bin",
                *BRIDGE,
                "run 0",
            ]
        )
        found[name] = lmp.get_thermo("pe") * ev[name] / lmp.get_natoms()
        lmp.close()
    return found


@check
def per_atom() -> Any:
    """Energy and virial of each atom against LAMMPS' own."""
    found = {}
    for newton in ("on", "off"):
        values = []
        for pair in (NATIVE, BRIDGE):
            lmp = argon(
                *pair,
                "compute e all pe/atom",
                "compute s all stress/atom NULL pair",
                "compute se all reduce sum c_e",
                "compute ss all reduce sum c_s[1]",
                newton=newton,
                triclinic=True,
            )
            lmp.command("thermo_style custom step pe c_se c_ss")
            lmp.command("run 0")
            n = lmp.get_natoms()
            values.append(
                (
                    np.array(lmp.gather("c_e", 1, 1)),
                    np.array(lmp.gather("c_s", 1, 6)).reshape(n, 6),
                )
            )
            lmp.close()
        for key, k in (("energies", 0), ("stresses", 1)):
            a, b = values[1][k], values[0][k]
            found[f"{key}-{newton}"] = float(np.abs(a - b).max() / np.abs(b).max())
    return found


@check
def constant_pressure() -> Any:
    """A barostat squeezes the box, in which lists live for a while."""
    npt = "fix npt all npt temp 60 60 0.1 aniso 2000 2000 0.2"
    return both(npt, "velocity all create 60 11", "timestep 0.002", "run 150")


@check
def constant_pressure_triclinic() -> Any:
    npt = "fix npt all npt temp 60 60 0.1 tri 2000 2000 0.2"
    return both(npt, "velocity all create 60 11", "timestep 0.002", "run 100", triclinic=True)


@check
def fast_deformation() -> Any:
    """The box shrinks by 8 %, without atoms in the one run, with them in the other."""
    commands = ("fix nve all nve", "velocity all create 30 11", "timestep 0.002")
    found = {}
    for remap in ("none", "x"):
        deform = f"fix d all deform 1 x scale 0.92 y scale 0.97 remap {remap}"
        found[remap] = max(both(*commands, deform, "run 60").values())
    return found


@check
def migration() -> Any:
    """Hot enough for atoms to change ranks, and sorted meanwhile."""
    commands = ("atom_modify sort 20 3.0", "velocity all create 900 5", "timestep 0.002")
    return both(*commands, "fix nve all nve", "run 150")


@check
def minimisation() -> Any:
    found = {}
    for name, pair in (("native", NATIVE), ("bridge", BRIDGE)):
        lmp = argon(*pair)
        lmp.command("minimize 0.0 1e-8 200 1000")
        found[name] = lmp.get_thermo("pe")
        found[f"{name}-fmax"] = float(np.abs(state(lmp)["forces"]).max())
        lmp.close()
    return found


@check
def overlay() -> Any:
    """A region for the model in a classical surrounding: together what LAMMPS has for all."""
    mixed = (
        "pair_style hybrid/overlay alchemi {model} lj/cut 6.0",
        "pair_coeff * * alchemi 18 NULL",
        "pair_coeff 1 2 lj/cut 0.0104 3.4",
        "pair_coeff 2 2 lj/cut 0.0104 3.4",
        "pair_modify shift yes",
    )
    found = []
    for pair in (NATIVE, mixed):
        box = crystal("fcc 5.3", "39.948", True, "on")
        box = [line.replace("create_box 1", "create_box 2") for line in box]
        box = [line.replace("mass 1", "mass *") for line in box]
        lmp = opened(
            [
                *box,
                "region half block INF INF INF INF INF 7.0 units box",
                "group outside region half",
                "set group outside type 2",
                *(line.format(model=f"{FOLDER}/lj.pt") for line in pair),
                "thermo_style custom step pe " + " ".join(PRESSURES),
                "velocity all create 40 5",
                "fix nve all nve",
                "timestep 0.002",
                "run 50",
            ]
        )
        found.append(state(lmp))
        lmp.close()
    return deviation(found[1], found[0])


@check
def restart() -> Any:
    """The pair style and its coefficients come with a restart file."""
    file = FOLDER / f"restart-{RANKS}"
    lmp = argon(f"pair_style alchemi {FOLDER}/lj.pt scale 0.5 device cpu", BRIDGE[1])
    lmp.command("fix nve all nve")
    lmp.command("run 10")
    lmp.command(f"write_restart {file}")
    before = lmp.get_thermo("pe")
    lmp.close()
    lmp = opened([f"read_restart {file}", "neighbor 1.0 bin", "run 0"])
    after = lmp.get_thermo("pe")
    lmp.close()
    return {"before": before, "after": after}


@check
def small_box() -> Any:
    """One cell of silicon, smaller than the cutoff; the net sees images of images."""
    found = {}
    for triclinic in (False, True):
        lmp = opened(
            [
                *crystal("diamond 5.431", "28.085", triclinic, "on", 1),
                f"pair_style alchemi {FOLDER}/net.pt",
                "pair_coeff * * 14",
                "thermo_style custom step pe " + " ".join(PRESSURES),
                "run 0",
            ]
        )
        found[f"{triclinic}"] = {k: np.asarray(v).tolist() for k, v in state(lmp).items()}
        lmp.close()
    return found


@check
def empty_ranks() -> Any:
    """All atoms in one corner of a box with walls: other ranks have none."""
    found = {}
    for name in ("lj", "net"):
        lmp = opened(
            [
                "units metal",
                "atom_modify map array",
                "boundary f f f",
                "processors * 1 1",
                "region box block 0 200 0 40 0 40",
                "create_box 1 box",
                "lattice fcc 5.3",
                "region corner block 5 18 5 18 5 18 units box",
                "create_atoms 1 region corner",
                "mass 1 39.948",
                "reset_atoms id sort yes",
                "displace_atoms all random 0.1 0.1 0.1 37",
                f"pair_style alchemi {FOLDER}/{name}.pt",
                f"pair_coeff * * {18 if name == 'lj' else 14}",
                "neighbor 1.0 bin",
                "fix nve all nve",
                "thermo_style custom step pe " + " ".join(PRESSURES),
                "run 5",
            ]
        )
        found[name] = {k: np.asarray(v).tolist() for k, v in state(lmp).items()}
        found[name]["least"] = int(MPI.COMM_WORLD.allreduce(lmp.extract_setting("nlocal"), MPI.MIN))
        lmp.close()
    return found


@check
def slab() -> Any:
    """Periodic in two directions, with shrinking faces in the third; tilted as well."""
    found = {}
    for triclinic in (False, True):
        pair = []
        for style in (NATIVE, BRIDGE):
            box = ["boundary p p s", *crystal("fcc 5.3", "39.948", triclinic, "on")]
            thermo = "thermo_style custom step pe " + " ".join(PRESSURES)
            more = ["velocity all create 60 5", "fix nve all nve", "timestep 0.002", "run 50"]
            lmp = opened([*box, *style, thermo, *more])
            pair.append(state(lmp))
            lmp.close()
        found[f"{triclinic}"] = deviation(pair[1], pair[0])
    return found


@check
def single_precision() -> Any:
    found = []
    for name in ("net32", "net"):
        pair = (f"pair_style alchemi {FOLDER}/{name}.pt", "pair_coeff * * 14")
        lmp = opened([*crystal("fcc 5.3", "20.0", False, "on"), *pair, "run 0"])
        found.append(lmp.get_thermo("pe") / lmp.get_natoms())
        lmp.close()
    return found


@check
def types_change_between_lists() -> Any:
    """Monte Carlo of the composition in the middle of a list's life, and then a new list.

    LAMMPS runs this fix with energies of the whole on one rank only, in a box of four cutoffs.
    """
    if RANKS > 1:
        return {}
    box = crystal("fcc 5.3", "39.948", False, "on", 6)
    box = [line.replace("create_box 1", "create_box 2") for line in box]
    box = [line.replace("mass 1", "mass *") for line in box]
    lmp = opened(
        [
            *box,
            "set group all type/fraction 2 0.5 7",
            f"pair_style alchemi {FOLDER}/mixture.pt",
            "pair_coeff * * 18 36",
            "neigh_modify delay 10",
            "fix mc all sgcmc 2 0.1 300.0 0.01 randseed 11",
            "velocity all create 60 11",
            "fix nve all nve",
            "timestep 0.002",
            "thermo_style custom step pe " + " ".join(PRESSURES),
            "run 5",
        ]
    )
    with_old, accepted = state(lmp), lmp.extract_fix("mc", 0, 1, 0)
    assert accepted > 0
    lmp.command("unfix mc")
    lmp.command("run 0")
    with_new = state(lmp)
    lmp.close()
    found = deviation(with_old, with_new)
    del found["positions"]  # a new list comes with atoms put back into the box
    return found


@check
def exclusions_of_others() -> Any:
    """Pairs that the model does not see anyway may be left out."""
    box = crystal("fcc 5.3", "39.948", False, "on")
    box = [line.replace("create_box 1", "create_box 2") for line in box]
    box = [line.replace("mass 1", "mass *") for line in box]
    values = []
    for more in ([], ["neigh_modify exclude type 2 2"]):
        lmp = opened(
            [
                *box,
                "set group all type/fraction 2 0.5 7",
                f"pair_style hybrid/overlay alchemi {FOLDER}/lj.pt zero 6.0",
                "pair_coeff * * alchemi 18 NULL",
                "pair_coeff * * zero",
                *more,
                "run 0",
            ]
        )
        values.append(lmp.get_thermo("pe"))
        lmp.close()
    return values


@check
def two_models() -> Any:
    """Two models of different ranges at the same time: neither takes the other's ghosts away."""
    alone = []
    for name in ("net", "short-long"):
        lmp = argon(f"pair_style alchemi {FOLDER}/{name}.pt", "pair_coeff * * 14", "run 0")
        alone.append(lmp.get_thermo("pe"))
        lmp.close()
    lmp = argon(
        f"pair_style hybrid/overlay alchemi {FOLDER}/short-long.pt alchemi {FOLDER}/net.pt",
        "pair_coeff * * alchemi 1 14",
        "pair_coeff * * alchemi 2 14",
        "run 0",
    )
    both = lmp.get_thermo("pe")
    lmp.close()
    return {"sum": sum(alone), "both": both}


@check
def plane() -> Any:
    """In two dimensions LAMMPS calls z periodic."""
    found = []
    for pair in (NATIVE, BRIDGE):
        lmp = opened(
            [
                "units metal",
                "dimension 2",
                "atom_modify map array",
                "lattice hex 3.8",
                "region box block 0 6 0 4 -0.5 0.5",
                "create_box 1 box",
                "create_atoms 1 box",
                "mass 1 39.948",
                "reset_atoms id sort yes",
                "displace_atoms all random 0.1 0.1 0 37",
                "neighbor 1.0 bin",
                *pair,
                "velocity all create 60 11",
                "fix nve all nve",
                "fix flat all enforce2d",
                "timestep 0.002",
                "thermo_style custom step pe " + " ".join(PRESSURES),
                "run 30",
            ]
        )
        found.append(state(lmp))
        lmp.close()
    return deviation(found[1], found[0])


# --- keywords -------------------------------------------------------------------------------------


def zoo(model: str, *keywords: str, lattice: str = "fcc 4.0", number: int = 14) -> Any:
    lmp = opened(
        [
            *crystal(lattice, "28.0", False, "on"),
            " ".join([f"pair_style alchemi {FOLDER}/{model}.pt", *keywords]),
            f"pair_coeff * * {number}",
            "thermo_style custom step pe " + " ".join(PRESSURES),
        ]
    )
    lmp.command("run 0")
    found = {k: np.asarray(v).tolist() for k, v in state(lmp).items()}
    lmp.close()
    return found


@check
def keywords() -> Any:
    return {
        "plain": zoo("variants"),
        "scaled": zoo("variants", "scale -2.5"),
        "pbe": zoo("variants", "variant pbe"),
        "energy": zoo("variants", "variant/energy scan"),
        "checked": zoo("variants", "check_consistency on device cpu tuning off"),
        "forces": zoo("non_conservative", "non_conservative forces"),
        "derived": zoo("non_conservative", "non_conservative off"),
    }


@check
def direct_stress() -> Any:
    """On several ranks nobody can say what part of it is whose."""
    found: list[Any] = []
    text = said(lambda: found.append(zoo("non_conservative", "non_conservative on")))
    return {"error": text, **(found[0] if found else {})}


@check
def uncertainty() -> Any:
    """The warning names atoms by their IDs, and comes through LAMMPS' own."""
    log = FOLDER / f"uncertain-{RANKS}.log"
    lmp = opened(crystal("fcc 5.3", "39.948", False, "on"))
    for line in (
        f"log {log}",
        "group gone id 1:105",
        "delete_atoms group gone compress no",
        f"pair_style alchemi {FOLDER}/uncertain.pt uncertainty_threshold 150",
        "pair_coeff * * 14",
        "run 0",
        f"pair_style alchemi {FOLDER}/uncertain.pt uncertainty_threshold 250",
        "pair_coeff * * 14",
        "run 0",
    ):
        lmp.command(line)
    lmp.close()
    MPI.COMM_WORLD.Barrier()
    return log.read_text() if MPI.COMM_WORLD.Get_rank() == 0 else None


# --- what is refused ------------------------------------------------------------------------------


def refused(*commands: str, box: list[str] | None = None) -> str:
    lmp = opened(crystal("fcc 5.3", "39.948", False, "on") if box is None else box)

    def run() -> None:
        for line in commands:
            lmp.command(line)

    text = said(run)
    lmp.close()
    return text


def after_an_error() -> str:
    """A model that can not be loaded takes the last one with it."""
    lmp = opened([*crystal("fcc 5.3", "39.948", False, "on"), *BRIDGE])
    assert said(lambda: lmp.command(f"pair_style alchemi {FOLDER}/none.pt"))
    text = said(lambda: lmp.command("pair_coeff * * 18"))
    lmp.close()
    return text


@check
def errors() -> Any:
    coeff = "pair_coeff * * 18"
    lj = f"pair_style alchemi {FOLDER}/lj.pt"
    return {
        "types": refused(lj, "pair_coeff * * 18 18"),
        "element": refused(lj, "pair_coeff * * 79"),
        "all NULL": refused(lj, "pair_coeff * * NULL"),
        "no model": refused(f"pair_style alchemi {FOLDER}/none.pt"),
        "no arguments": refused("pair_style alchemi"),
        "odd": refused(lj + " device"),
        "keyword": refused(lj + " colour blue"),
        "no energy": refused(f"pair_style alchemi {FOLDER}/no_energy.pt", coeff, "run 0"),
        "inputs": refused(f"pair_style alchemi {FOLDER}/charge.pt"),
        "units": refused(lj, box=["units lj", "region b block 0 9 0 9 0 9", "create_box 1 b"]),
        "exclude": refused(lj, coeff, "neigh_modify exclude type 1 1", "run 0"),
        "after an error": after_an_error(),
        "multi": refused(
            "neighbor 1.0 multi", f"pair_style alchemi {FOLDER}/net.pt", "pair_coeff * * 14",
            "run 0",
        ),
        "stale": refused(
            lj, coeff, "velocity all create 9000 5", "fix nve all nve", "timestep 0.01",
            "neigh_modify every 1000 check no", "run 500",
        ),
        "lost": refused(
            lj, coeff, "change_box all boundary f f f", "velocity all create 9000 5",
            "fix nve all nve", "timestep 0.01", "thermo 1", "run 500",
        ),
        "ghosts": refused(
            f"pair_style alchemi {FOLDER}/net.pt", "pair_coeff * * 14", "comm_modify cutoff 5.0",
            "run 0",
        ),
        "virials": refused(
            f"pair_style alchemi {FOLDER}/reads_positions.pt", "pair_coeff * * 14",
            "compute s all stress/atom NULL", "compute m all reduce max c_s[1]",
            "thermo_style custom step c_m", "run 0",
        ),
        "energies": refused(
            f"pair_style alchemi {FOLDER}/per_system_only.pt", "pair_coeff * * 14",
            "compute s all pe/atom", "compute m all reduce max c_s",
            "thermo_style custom step c_m", "run 0",
        ),
    }  # fmt: skip


@check
def special_bonds() -> Any:
    """Bonded atoms would be missing from the lists."""
    box = [
        "units metal",
        "atom_style molecular",
        "atom_modify map array",
        "region box block 0 15.9 0 15.9 0 15.9",
        "create_box 1 box bond/types 1 extra/bond/per/atom 20 extra/special/per/atom 400",
        "lattice fcc 5.3",
        "create_atoms 1 box",
        "mass 1 40.0",
    ]
    pair = [*BRIDGE, "neighbor 1.0 bin"]
    bonds = ["bond_style zero", "bond_coeff * 1.0", "create_bonds many all all 1 3.7 3.8"]
    found = {"zero": refused(*pair, *bonds, "special_bonds lj/coul 0 0 0", "run 0", box=box)}
    for name, more in {
        "free": [],
        "one": [*bonds, "special_bonds lj/coul 1 1 1"],
        "tiny": [*bonds, "special_bonds lj/coul 1e-50 1e-50 1e-50"],
    }.items():
        lmp = opened([*box, *pair, *more, "run 0"])
        found[name] = lmp.get_thermo("pe")
        lmp.close()
    return found


@check
def fails_on_one_rank() -> Any:
    """Two atoms meet at a place that one rank has: all ranks say so, and can go on."""
    lmp = argon(*BRIDGE)
    lmp.command("run 0")
    positions = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
    x, y, z = positions[1].tolist()
    text = said(
        lambda: [
            lmp.command(f"set atom 1 x {x!r} y {y!r} z {z!r}"),
            lmp.command("run 0"),
        ]
    )
    lmp.close()
    return text


def main() -> None:
    wanted = sys.argv[2:] or list(CHECKS)
    found: dict[str, Any] = {}
    for name in wanted:
        try:
            found[name] = CHECKS[name]()
        except Exception as error:
            found[name] = f"ERROR {type(error).__name__}: {error}"
    if MPI.COMM_WORLD.Get_rank() == 0:
        (FOLDER / f"features-{RANKS}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()

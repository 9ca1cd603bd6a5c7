"""Relax many small crystals with nvalchemi's FIRE in one batch, and one by one with ASE's.

Both use the bridge, the same algorithm and the same largest force; what is compared is the time,
and whether the minima are the same. What one thread of a CPU or a GPU did goes to a JSON file.

    python integration/nvalchemi/relax_many.py [--systems 256] [--device cuda] [--json FILE]
"""

import argparse
import json
import platform
import tempfile
import time
import warnings
from pathlib import Path

import ase
import ase.build
import numpy as np
import torch
from ase.optimize import FIRE as AseFIRE

from alchemi_bridge import BridgeCalculator, potentials

warnings.filterwarnings("ignore")  # what nvalchemi's packages warn of when they are imported

from nvalchemi.dynamics import FIRE, ConvergenceHook  # noqa: E402

from alchemi_bridge.engines.nvalchemi import MetatomicModel, make_batch, prime  # noqa: E402

#: eV/Å, where an optimisation ends.
LARGEST_FORCE = 1e-3

#: eV per system. Force constants are above 1 eV/Å^2, so that less than 24 * 1e-6 / 2 eV are left.
SAME_MINIMUM = 2e-5

MOST_STEPS = 2000


def crystals(count: int) -> list[ase.Atoms]:
    """Cubic cells of silicon, 8 atoms, stretched or pressed by up to 3 % and shaken by 0.1 Å."""
    found = []
    for seed, a in enumerate(5.431 * np.linspace(0.97, 1.03, count)):
        atoms = ase.build.bulk("Si", "diamond", a=a, cubic=True)
        atoms.rattle(0.1, seed=seed)
        found.append(atoms)
    return found


def batched(model: Path, structures: list[ase.Atoms], device: str) -> tuple[np.ndarray, int, float]:
    """Energies, steps of the batch and seconds; loading and a first step are not timed."""
    metatomic = MetatomicModel(model, device=device)

    def relaxed(steps: int) -> tuple[np.ndarray, int, float]:
        batch = make_batch(structures, device=device)
        dynamics = FIRE(
            metatomic, dt=0.1, convergence_hook=ConvergenceHook.from_fmax(LARGEST_FORCE)
        )
        begin = time.perf_counter()
        prime(dynamics, batch)
        dynamics.run(batch, n_steps=steps)
        energies = batch.energy[:, 0].cpu().numpy()  # waits for the device
        seconds = time.perf_counter() - begin
        largest = float(torch.linalg.vector_norm(batch.forces, dim=1).max())
        if steps == MOST_STEPS and not largest < LARGEST_FORCE:
            raise SystemExit(f"not converged after {steps} steps: largest force {largest} eV/Å")
        return energies, dynamics.step_count, seconds

    relaxed(20)
    return relaxed(MOST_STEPS)


def one_by_one(
    model: Path, structures: list[ase.Atoms], device: str
) -> tuple[np.ndarray, int, float]:
    """Energies, largest number of steps and seconds; loading and a first system are not timed."""
    calculator = BridgeCalculator(model, device=device)

    def relaxed(atoms: ase.Atoms) -> tuple[float, int]:
        atoms = atoms.copy()
        atoms.calc = calculator
        optimiser = AseFIRE(atoms, logfile=None)
        if not optimiser.run(fmax=LARGEST_FORCE, steps=MOST_STEPS):
            raise SystemExit(f"ASE: not converged after {MOST_STEPS} steps")
        return float(atoms.get_potential_energy()), int(optimiser.nsteps)

    relaxed(structures[0])
    begin = time.perf_counter()
    found = [relaxed(atoms) for atoms in structures]
    seconds = time.perf_counter() - begin
    return np.array([energy for energy, _ in found]), max(steps for _, steps in found), seconds


def hardware(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.processor()])[0]}, {torch.get_num_threads()} thread(s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    structures = crystals(options.systems)
    with tempfile.TemporaryDirectory() as folder:
        model = potentials.export("stillinger_weber", Path(folder, "silicon.pt"))
        energies, steps, seconds = batched(model, structures, options.device)
        expected, most, reference = one_by_one(model, structures, options.device)
    difference = float(np.abs(energies - expected).max())
    report = {
        "hardware": hardware(options.device),
        "systems": options.systems,
        "atoms": sum(map(len, structures)),
        "largest_force_eV_per_A": LARGEST_FORCE,
        "batched": {"steps": steps, "seconds": seconds},
        "ase": {"most_steps": most, "seconds": reference},
        "ratio": reference / seconds,
        "largest_difference_of_energies_eV": difference,
    }
    print(f"{report['hardware']}: {options.systems} crystals of 8 atoms")
    print(f"  nvalchemi, one batch   {seconds:8.1f} s  {steps} steps")
    print(f"  ASE, one by one        {reference:8.1f} s  at most {most} steps each")
    print(f"  ratio {report['ratio']:.1f}, largest difference of energies {difference:.1e} eV")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if not difference < SAME_MINIMUM:
        raise SystemExit(f"the minima differ by {difference:.1e} eV, allowed are {SAME_MINIMUM}")


if __name__ == "__main__":
    main()

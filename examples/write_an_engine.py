"""A small MD engine on the provider: its own units, precision, buffers and pair lists.

The engine works in nm, kJ/mol and float32, keeps positions and forces as float4, and builds its
own half list with a buffer, as GROMACS would. The provider reads and adds in place.
"""

import ase.build
import numpy as np
from ase.neighborlist import neighbor_list

from alchemi_bridge import (
    Atoms,
    Cell,
    ForceBuffers,
    HalfPairs,
    MetatomicForceProvider,
    Step,
    Units,
    potentials,
)

BUFFER = 0.1  # nm beyond the cutoff, so that a list serves for several steps
LIST_STEPS = 10
DT = 0.001  # ps; with nm, kJ/mol and u this makes a consistent set of units


def half_list(positions: np.ndarray, box: np.ndarray, reach: float) -> HalfPairs:
    """Every pair once, with shifts, as an engine would have it."""
    crystal = ase.Atoms(positions=positions, cell=box, pbc=True)
    first, second, shifts = neighbor_list("ijS", crystal, reach)
    once = (first < second) | ((first == second) & (shifts @ [1e6, 1e3, 1] > 0))
    return HalfPairs(first[once], second[once], shifts[once], reach=reach)


def main(steps: int = 100) -> float:
    """Run NVE and return the drift of the total energy in kJ/mol per atom."""
    model = potentials.export("stillinger_weber", "silicon.pt")
    provider = MetatomicForceProvider(model, units=Units("nm", "kJ/mol"))
    crystal = ase.build.bulk("Si", cubic=True) * (2, 2, 2)
    n, mass = len(crystal), 28.0855
    box = crystal.cell.array * 0.1
    x, f = np.zeros((n, 4), np.float32), np.zeros((n, 4), np.float32)
    x[:, :3] = crystal.positions * 0.1
    energy = np.zeros(1)
    v = np.random.default_rng(1).normal(0.0, 0.3, (n, 3)).astype(np.float32)
    v -= v.mean(axis=0)

    provider.set_atoms(Atoms(types=crystal.numbers))
    reach = provider.requirements.pair_range + BUFFER
    totals = []
    for step in range(steps):
        if step % LIST_STEPS == 0:
            provider.set_pairs(half_list(x[:, :3], box, reach), Cell.of(box))
        f[:], energy[:] = 0.0, 0.0
        done = provider.compute(Step(positions=x[:, :3]), ForceBuffers(f[:, :3], energy))
        done.synchronize()
        v += 0.5 * DT * f[:, :3] / mass
        if step > 0:  # both halves of the kick: v is at the time of the positions now
            totals.append(energy[0] + 0.5 * mass * float((v.astype(float) ** 2).sum()))
        v += 0.5 * DT * f[:, :3] / mass
        x[:, :3] += DT * v
    drift = (totals[-1] - totals[0]) / n
    print(f"{steps} steps, {provider.searches} lists, drift {drift:.2e} kJ/mol per atom")
    return drift


if __name__ == "__main__":
    main()

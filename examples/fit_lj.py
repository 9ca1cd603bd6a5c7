"""Fit epsilon and sigma of argon to a radial distribution function and a mean energy (DiffTRe).

``--ray`` simulates on all cores; ``--write-target`` ends with the files for fit_lj.toml, which does
the same: ``python fit_lj.py --write-target && alchemi-bridge fit fit_lj.toml``.
"""

import argparse

import ase.build
import ase.io
import numpy as np
import torch

from alchemi_bridge import potentials
from alchemi_bridge.ensembles import InProcessExecutor, Optimizer
from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor
from alchemi_bridge.ensembles.fit.plot import plot_fit
from alchemi_bridge.ensembles.fit.rows import row_of
from alchemi_bridge.ensembles.objectives import ReweightedObjective, Target
from alchemi_bridge.ensembles.observables import PotentialEnergy, RadialDistribution
from alchemi_bridge.ensembles.simulators import AseSimulator

parser = argparse.ArgumentParser()
parser.add_argument("--ray", action="store_true")
parser.add_argument("--write-target", action="store_true")
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--md-steps", type=int, default=1000)
args = parser.parse_args()

TRUE = {"epsilon": 0.01042332, "sigma": 3.40}  # eV, Å
ENERGY, RDF = PotentialEnergy(per_atom=True), RadialDistribution(r_max=8.0, bins=80)


def model(name: str, factor: float) -> str:
    values = {key: [factor * value] for key, value in TRUE.items()}
    path = potentials.export(
        "lennard_jones", name, types=[18], cutoff=6.5, trainable=True, **values
    )
    return str(path)


start = model("start.pt", 0.85)
liquid = ase.build.bulk("Ar", "fcc", a=5.78, cubic=True) * (3, 3, 3)
options = {"structure": liquid, "temperature": 94.4, "timestep": 10.0, "every": 20}
options |= {"equilibration": 500, "again": 100}
truth = AseSimulator(name="truth", model=model("true.pt", 1.0), steps=10 * args.md_steps, **options)
(target,), _ = truth.run({}, None)
rdf, energy = RDF(target).mean(axis=0), ENERGY(target).mean()
if args.write_target:
    ase.io.write("liquid.xyz", liquid)
    np.savetxt("rdf.csv", np.c_[RDF.r, rdf], "%.6f", ",", header="r,g", comments="")
    print(f"start.pt, liquid.xyz, rdf.csv; energy {energy:.6f} eV/atom")
    raise SystemExit

simulators = AseSimulator.create_n(2, "liquid", model=start, steps=args.md_steps, **options)
targets = [Target("rdf", RDF, rdf, scale=0.2), Target("energy", ENERGY, energy, scale=0.002)]
objective = ReweightedObjective("argon", start, simulators, targets)
with RayExecutor("local") if args.ray else InProcessExecutor() as executor:
    optimizer = Optimizer(
        simulators,
        [objective],
        objective.model.load().values(),
        lambda tensors: torch.optim.Adam(tensors, lr=0.02, betas=(0.7, 0.9)),
        scales=dict.fromkeys(TRUE, "log"),
        executor=executor,
    )
    outputs = optimizer.run(args.steps)

print("            true     start    fitted   error")
for name, true in TRUE.items():
    begin, end = float(outputs[0].before[name]), float(outputs[-1].after[name])
    print(f"{name:8} {true:9.6f} {begin:9.6f} {end:9.6f} {100 * (end / true - 1):+6.2f} %")
print(f"{sum(o.simulations for o in outputs)} simulations in {len(outputs)} steps")
found = {"start": outputs[0], "fitted": outputs[-1]}
curves = {name: (RDF.r, output.values["argon"]["rdf"]) for name, output in found.items()}
plot_fit(
    [row_of(output) for output in outputs], list(TRUE), "fit_lj.png", expected=TRUE,
    curves={"target": (RDF.r, rdf), **curves}, axes_of_curves=("r / Å", "g(r)"),
)  # fmt: skip

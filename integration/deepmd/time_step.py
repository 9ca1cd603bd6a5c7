"""What a training step costs: energies, forces, loss, its gradient, Adam.

``python time_step.py native`` where alchemi_bridge is installed, ``python time_step.py deepmd`` in
an environment with deepmd-kit; the same settings, one frame of 80 atoms of copper, one thread.
Prints the median processor time in ms.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from cases import structures

MODEL = {
    "type_map": ["Cu"],
    "descriptor": {
        "type": "se_e2_a",
        "sel": [90],
        "rcut": 5.0,
        "rcut_smth": 0.5,
        "neuron": [25, 50, 100],
        "axis_neuron": 16,
        "type_one_side": True,
    },
    "fitting_net": {"neuron": [120, 120, 120], "resnet_dt": True},
}
STEPS, WARM_UP = 30, 5


def main(whose: str) -> None:
    """Time the steps."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    structure = structures(1)["triclinic"]
    x, h = (torch.from_numpy(structure[key])[None] for key in ("positions", "cell"))
    types = torch.from_numpy(structure["types"])
    target = torch.randn(x.shape, dtype=torch.float64)
    forces: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    if whose == "native":
        from alchemi_bridge.potentials.deepmd import (
            SeE2A,
            evaluate,
            pairs_of_frames,
            read_definition,
        )

        definition = read_definition(MODEL)
        model: torch.nn.Module = SeE2A(definition)
        model.initialise(seed=0)
        # pairs are found once for a data set
        pairs = pairs_of_frames(x, h, definition.rcut)

        def forces() -> tuple[torch.Tensor, torch.Tensor]:
            found = evaluate(model, x, h, types, pairs, differentiable=True)
            return found.energies, found.forces
    else:
        from deepmd.pt.model.model import get_model

        model = get_model(MODEL).train()

        def forces() -> tuple[torch.Tensor, torch.Tensor]:
            found = model(x, types[None], h.reshape(1, 9))
            return found["energy"], found["force"]

    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    times = []
    for _ in range(STEPS):
        start = time.process_time()
        optimizer.zero_grad()
        energy, force = forces()
        loss = (force - target).square().mean() + 1e-6 * energy.square().sum()
        loss.backward()
        optimizer.step()
        times.append(1e3 * (time.process_time() - start))
    print(f"{whose}: {statistics.median(times[WARM_UP:]):.1f} ms")


if __name__ == "__main__":
    main(sys.argv[1])

"""Relaxation and dynamics on several ranks, against the same systems one by one in one process.

    torchrun --nproc_per_node=2 integration/nvalchemi/pipeline.py      # relax | MD
    torchrun --nproc_per_node=4 integration/nvalchemi/pipeline.py      # two chains: 0 -> 1, 2 -> 3

Mixed species, float64; 1, 3 and 16 systems, buffers for 1 and 4 of them, all communication modes.
Every system must arrive once; what the second stage gets must be what the first one had, bit for
bit; and where it ends must be where it ends alone. `--json FILE` writes what was seen.
"""

import argparse
import hashlib
import itertools
import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.build import bulk
from torch import distributed

from alchemi_bridge import potentials

warnings.filterwarnings("ignore")  # what nvalchemi's packages warn of when they are imported

from nvalchemi.dynamics import FIRE, NVE, ConvergenceHook, SizeAwareSampler  # noqa: E402
from nvalchemi.dynamics.base import DynamicsStage  # noqa: E402

from alchemi_bridge.engines.nvalchemi import (  # noqa: E402
    MetatomicModel,
    atomic_data,
    make_batch,
    prime,
)
from alchemi_bridge.engines.nvalchemi_pipeline import (  # noqa: E402
    BufferConfig,
    DistributedPipeline,
    ExactMemory,
)

#: Å. Rounding of sums in another order grows to less over these steps.
SAME_PATH = 1e-9

LARGEST_FORCE = 1e-2  # eV/Å
STEPS = 20
MODES = ("sync", "async_recv", "fully_async")

#: Field with the number of a structure; nvalchemi's samplers may take them in another order.
NUMBER = "structure"

#: What the first stage hands over and the second computes anew.
COMPUTED = ("forces", "energy")


class Structures:
    """nvalchemi's interface to a data set."""

    def __init__(self, structures: dict[int, ase.Atoms]) -> None:
        self.data = [atomic_data(atoms) for atoms in structures.values()]
        for data, number in zip(self.data, structures, strict=True):
            data.add_system_property(NUMBER, torch.tensor([[number]]))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, k: int) -> tuple[Any, dict]:
        return self.data[k], {}

    def get_metadata(self, k: int) -> tuple[int, int]:
        return len(self.data[k].positions), 0


@dataclass
class Bits:
    """A hook that notes the bits of systems: of those that converge, or of all that are new."""

    stage: DynamicsStage
    frequency: int = 1

    def __post_init__(self) -> None:
        self.seen: dict[int, str] = {}

    def __call__(self, context: Any, stage: DynamicsStage) -> None:
        batch = context.batch
        chosen = context.converged_mask if stage is DynamicsStage.ON_CONVERGE else None
        for k, number in enumerate(batch[NUMBER].flatten().tolist()):
            if number not in self.seen and (chosen is None or bool(chosen[k])):
                self.seen[number] = digest(batch, k)


def digest(batch: Any, k: int) -> str:
    """Of all fields of a system, by name, dtype and bytes."""
    state = hashlib.sha256()
    first = sum(batch.num_nodes_list[:k])
    atoms = slice(first, first + batch.num_nodes_list[k])
    for level, group in sorted(batch._storage.groups.items()):
        for name in sorted(group.keys()):
            if name in COMPUTED:
                continue
            rows = batch[name][atoms if level == "atoms" else slice(k, k + 1)].contiguous()
            state.update(f"{name} {rows.dtype} {tuple(rows.shape)}".encode())
            state.update(rows.numpy().tobytes())
    return state.hexdigest()


def structures(count: int, seed: int) -> dict[int, ase.Atoms]:
    """Crystals of argon and krypton, 4 to 16 atoms, shaken, with velocities; by number."""
    random = np.random.default_rng(seed)
    made = {}
    for k in range(count):
        repeat = ((1, 1, 1), (2, 1, 1), (2, 2, 1))[k % 3]
        atoms = bulk("Ar", "fcc", a=5.4 + 0.02 * (k % 5), cubic=True) * repeat
        atoms.numbers[random.permutation(len(atoms))[: len(atoms) // 2]] = 36
        atoms.rattle(0.15, rng=random)
        atoms.set_velocities(0.003 * random.normal(size=(len(atoms), 3)))
        made[1000 * seed + k] = atoms
    return made


def relaxation(model: MetatomicModel, **options: Any) -> FIRE:
    hook = ConvergenceHook.from_fmax(LARGEST_FORCE)
    return FIRE(model, dt=0.1, convergence_hook=hook, device_type="cpu", **options)


def dynamics(model: MetatomicModel, **options: Any) -> NVE:
    return NVE(model, dt=2.0, n_steps=STEPS, device_type="cpu", **options)


def alone(model: MetatomicModel, atoms: ase.Atoms) -> np.ndarray:
    """(n_atoms, 3) where a system ends that goes through both stages by itself."""
    batch = make_batch([atoms])
    for made in (relaxation, dynamics):
        stage = made(model)
        prime(stage, batch)
        batch = stage.run(batch, n_steps=STEPS if made is dynamics else 2000)
    return batch.positions.numpy()


def through(
    model: MetatomicModel, systems: list[dict[int, ase.Atoms]], capacity: int, mode: str
) -> tuple[dict[int, np.ndarray], dict[int, str], dict[int, str], list[Any]]:
    """One run; on every rank: where systems ended, their bits between the stages, the journal."""
    rank, n_ranks = distributed.get_rank(), distributed.get_world_size()
    sink, sent, came = ExactMemory(), {}, {}
    common = {
        "comm_mode": mode,
        "max_batch_size": capacity,
        "buffer_config": BufferConfig(num_systems=capacity, num_nodes=64 * capacity, num_edges=0),
    }
    stages: dict[int, Any] = {}
    for chain, own in enumerate(systems):
        first = 2 * chain
        sampler = SizeAwareSampler(Structures(own), max_atoms=None, max_batch_size=capacity)
        leaving, coming = Bits(DynamicsStage.ON_CONVERGE), Bits(DynamicsStage.BEFORE_STEP)
        ends = {"prior_rank": None, "next_rank": first + 1, "sampler": sampler}
        stages[first] = relaxation(model, hooks=[leaving], **ends, **common)
        ends = {"prior_rank": first, "next_rank": None, "sinks": [sink]}
        stages[first + 1] = dynamics(model, hooks=[coming], **ends, **common)
        sent, came = (leaving.seen, sent)[rank != first], (coming.seen, came)[rank != first + 1]
    assert len(stages) == n_ranks
    pipeline = DistributedPipeline(stages)
    pipeline.setup()
    pipeline.run()
    ended: dict[int, np.ndarray] = {}
    for batch in sink.batches():
        for k, number in enumerate(batch[NUMBER].flatten().tolist()):
            begin = sum(batch.num_nodes_list[:k])
            rows = batch.positions[begin : begin + batch.num_nodes_list[k]]
            if number in ended:
                raise SystemExit(f"system {number} arrived twice")
            ended[number] = rows.numpy().copy()
    return ended, sent, came, pipeline.journal()


def everywhere(value: Any) -> list[Any]:
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def case(model: MetatomicModel, count: int, capacity: int, mode: str) -> dict[str, Any]:
    """One run, and the comparison of what came with what it should be."""
    chains = distributed.get_world_size() // 2
    systems = [structures(count, seed=chain) for chain in range(chains)]
    parts = everywhere(through(model, systems, capacity, mode))
    ended = {n: rows for own, _, _, _ in parts for n, rows in own.items()}
    sent = {n: bits for _, own, _, _ in parts for n, bits in own.items()}
    came = {n: bits for _, _, own, _ in parts for n, bits in own.items()}
    expected = {number: atoms for own in systems for number, atoms in own.items()}
    mine = [n for k, n in enumerate(sorted(expected)) if k % len(parts) == distributed.get_rank()]
    apart = {
        n: float(np.abs(ended[n] - alone(model, expected[n])).max()) if n in ended else None
        for n in mine
    }
    found = {n: value for own in everywhere(apart) for n, value in own.items()}
    visits = parts[0][3]
    ways = [[v.rank for v in visits if v.system == n] for n in {v.system for v in visits}]
    largest = max((d for d in found.values() if d is not None), default=0.0)
    result = {
        "chains": chains,
        "systems_per_chain": count,
        "capacity": capacity,
        "mode": mode,
        "arrived": len(ended),
        "unchanged_bit_for_bit": sum(came.get(n) == bits for n, bits in sent.items()),
        "largest_difference_to_alone_A": largest,
    }
    result["good"] = (
        sorted(ended) == sorted(sent) == sorted(came) == sorted(expected)
        and sent == came
        and largest < SAME_PATH
        and sorted(ways) == sorted([2 * k, 2 * k + 1] for k in range(chains) for _ in range(count))
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write what was seen to this file")
    parser.add_argument("--systems", type=int, nargs="*", default=[1, 3, 16])
    parser.add_argument("--capacity", type=int, nargs="*", default=[1, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, n_ranks = distributed.get_rank(), distributed.get_world_size()
    if n_ranks % 2:
        raise SystemExit(f"two ranks for each chain: an even number is needed, got {n_ranks}")
    with tempfile.TemporaryDirectory() as folder:
        path = potentials.export("lennard_jones", Path(folder, "model.pt"))
        model = MetatomicModel(path, device="cpu")
    results = []
    for count, capacity, mode in itertools.product(options.systems, options.capacity, MODES):
        results.append(case(model, count, capacity, mode))
        if rank == 0:
            last = results[-1]
            print(
                f"{last['chains']} chain(s), {count:2d} systems each, capacity {capacity}, "
                f"{mode:11s}: {last['arrived']} arrived, {last['unchanged_bit_for_bit']} unchanged,"
                f" {last['largest_difference_to_alone_A']:.1e} Å from alone"
                f"{'' if last['good'] else '  WRONG'}",
                flush=True,
            )
    if rank == 0 and options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    distributed.destroy_process_group()
    if not all(result["good"] for result in results):
        raise SystemExit("not all systems arrived as they should")


if __name__ == "__main__":
    main()

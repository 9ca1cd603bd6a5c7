"""Peaks of memory while energies of many frames are differentiated; a program.

``python frames_memory_run.py MODEL`` prints one line of JSON. In a process of its own, since other
tests fill and free the memory of theirs.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch
from reweighting_parts import drawn

from alchemi_bridge.ensembles.energies import Frames
from alchemi_bridge.ensembles.models import ModelFile

#: Frames, and frames in a chunk; each adds to the peak of those before, if it adds anything.
CASES = ((8, 8), (160, 8), (160, 160))


def peak() -> float:
    """Of this process, MB: the one of ``resource`` begins with that of the parent."""
    status = Path("/proc/self/status").read_text()
    return float(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024.0


def main(path: str) -> None:
    """Print the growth of the peak in each case."""
    torch.set_num_threads(1)
    model = ModelFile.of(path).load()
    trajectory = drawn(Path(path), 160, element="Si", a=4.3, repeat=3, spread=0.1)
    grown = {}
    for n_frames, chunk in CASES:
        before = peak()
        # prepared pairs are not kept: they do take memory for each frame
        frames = Frames.of_trajectory(
            model.loaded, trajectory[:n_frames], chunk=chunk, kept_bytes=0
        )
        with model.differentiable(["biases"]) as leaves:
            for _ in range(4):  # TorchScript compiles in the first calls
                frames.gradient([leaves["biases"]], torch.ones(n_frames, dtype=torch.float64))
        grown[f"{n_frames}/{chunk}"] = peak() - before
    print(json.dumps(grown))


if __name__ == "__main__":
    main(sys.argv[1])

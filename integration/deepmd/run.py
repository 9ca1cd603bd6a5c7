"""All steps of the comparison with DeePMD-kit; see README.md.

``python run.py --deepmd-python PYTHON FOLDER``: PYTHON is that of an environment with deepmd-kit,
this program's own is one with alchemi_bridge. What a step made is made again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WITH_OPERATORS = ("se_e2_a-one-side", "dpa1-strip", "dpa3")
COMPRESSED = ("se_e2_a-one-side", "dpa1-strip")


def main() -> int:
    """Run all steps; the exit status of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deepmd-python", required=True, help="Python with deepmd-kit")
    parser.add_argument("--results", default=str(HERE / "results.json"), help="file to write")
    parser.add_argument("folder", type=Path, help="folder for models and numbers")
    args = parser.parse_args()
    folder = args.folder.resolve()
    operators = folder / "operators"
    operators.mkdir(parents=True, exist_ok=True)

    def step(python: str, script: str, *arguments: object) -> None:
        command = [python, str(HERE / script), *map(str, arguments)]
        subprocess.run(command, check=True, cwd=folder)

    theirs, ours = args.deepmd_python, sys.executable
    step(theirs, "make_models.py", folder)
    step(theirs, "reference.py", folder)
    for name in WITH_OPERATORS:
        target = operators / f"frozen-of-{name}.pth"
        checkpoint = folder / name / "model.ckpt.pt"
        step(theirs, "declare_operators.py", "freeze", checkpoint, target)
    for name in COMPRESSED:
        target = operators / f"compressed-of-{name}.pth"
        source, training_input = folder / f"{name}.pth", folder / name / "input.json"
        step(theirs, "declare_operators.py", "compress", source, target, training_input)
    step(ours, "native_models.py", folder)
    step(theirs, "load_native.py", folder)
    step(ours, "train_native.py", folder)
    step(theirs, "train_deepmd.py", folder)
    step(ours, "time_step.py", folder, theirs)
    return subprocess.run(
        [ours, str(HERE / "compare.py"), str(folder), args.results], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())

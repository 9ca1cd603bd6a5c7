"""Run a fit: steps, table, state, picture, and the fitted model."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch

from alchemi_bridge import __version__
from alchemi_bridge.ensembles.fit.checkpoint import Checkpoint
from alchemi_bridge.ensembles.fit.identity import FREE, differences
from alchemi_bridge.ensembles.fit.plot import plot_fit
from alchemi_bridge.ensembles.fit.problem import FitProblem
from alchemi_bridge.ensembles.fit.rows import columns_of, row_of
from alchemi_bridge.ensembles.optimizer import Optimizer, StepOutput
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.model.files import write_atomically
from alchemi_bridge.model.locks import locked

#: Names of the files in the output folder.
MODEL, TABLE, DOCUMENT, PICTURE, STATE = "fitted.pt", "fit.csv", "fit.json", "fit.png", "state.pt"
FILES = (STATE, MODEL, TABLE, DOCUMENT, PICTURE)


class Fit:
    """A fit and its folder. ``with Fit(...) as fit:`` lets go of executor and folder at the end.

    Parameters
    ----------
    problem
        What to do.
    folder
        Where files go; made if need be.
    restart
        Go on from the state in the folder.
    force
        Remove the files of another fit.

    Raises
    ------
    ConfigurationError
        If a file of another fit is there, another process writes there, the state is of another
        model or other parameters, or units and executor do not fit together.
    BridgeError
        What a unit has to say before any work.
    """

    def __init__(
        self, problem: FitProblem, folder: Path, *, restart: bool = False, force: bool = False
    ) -> None:
        self.problem, self.folder, self._force = problem, folder, force
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        self.last: StepOutput | None = None
        self._stack = ExitStack()
        self.executor = problem.executor.make()
        self.optimizer = Optimizer(
            problem.simulators,
            problem.objectives,
            problem.fitted.start,
            problem.update.make,
            executor=self.executor,
            remote_options_default=problem.hints,
            scales=problem.fitted.scales,
            bounds=problem.fitted.bounds,
        )
        if restart:
            self._resume(Checkpoint.read(folder / STATE))
        elif not force:
            self._require_free()

    def __enter__(self) -> Self:
        try:
            self._stack.callback(self.executor.close)
            self.optimizer.loop.check()
            self.folder.mkdir(parents=True, exist_ok=True)
            busy = ConfigurationError(
                f"output folder '{self.folder}'",
                expected="one fit at a time",
                got="another one that is running",
                fix="wait for it, or choose another --output",
            )
            self._stack.enter_context(locked(self.folder / TABLE, busy))
            if self._force:
                # a later restart must not go on with what this one replaces
                for name in FILES:
                    (self.folder / name).unlink(missing_ok=True)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def steps(self) -> Iterator[dict[str, float]]:
        """Make the steps that are left; the row of each."""
        while self.optimizer.steps_done < self.problem.n_steps:
            output = self.optimizer.step()
            self.last = output
            self.seconds += output.seconds
            self.rows.append(row_of(output))
            self._write_table()
            state = self.optimizer.state_dict()
            made_with = str(self.problem.model.sha256), self.problem.identity
            Checkpoint(*made_with, state, self.rows).write(self.folder / STATE)
            yield self.rows[-1]

    def finish(self) -> dict[str, Any]:
        """Write model, picture and document; the document."""
        parameters = self.optimizer.parameters
        model = self.problem.model.write(parameters, self.folder / MODEL)
        names = list(columns_of(parameters))
        plot_fit([*self.rows, *self._end(parameters)], names, self.folder / PICTURE)
        start = self.problem.fitted.start
        report = {
            "alchemi_bridge": __version__,
            "configuration": str(self.problem.path),
            "model": str(self.problem.model.path),
            "sha256": self.problem.model.sha256,
            "executor": self.problem.executor.kind,
            "steps": self.optimizer.steps_done,
            "simulations": int(sum(row["simulations"] for row in self.rows)),
            "seconds": sum(row["seconds"] for row in self.rows),
            "start": columns_of(start),
            "fitted": columns_of(parameters),
            "last": self.rows[-1] if self.rows else {},
            "files": {
                "model": str(model),
                "table": str(self.folder / TABLE),
                "picture": str(self.folder / PICTURE),
            },
        }
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        write_atomically(self.folder / DOCUMENT, text.encode())
        return report

    def _end(self, parameters: dict[str, torch.Tensor]) -> list[dict[str, float]]:
        """Where the parameters ended, for the picture: what they give was not looked at."""
        if not self.rows:
            return []
        unknown = dict.fromkeys(self.rows[-1], float("nan"))
        step = self.rows[-1]["step"] + 1
        return [{**unknown, **columns_of(parameters), "step": step, "simulations": 0.0}]

    def _resume(self, found: Checkpoint) -> None:
        mine, theirs = set(self.problem.fitted.start), set(found.optimizer["parameters"])
        if found.sha256 != self.problem.model.sha256 or mine != theirs:
            same_model = found.sha256 == self.problem.model.sha256
            raise ConfigurationError(
                f"state of a fit '{self.folder / STATE}'",
                expected="that of the same model and the same parameters",
                got=f"one of {', '.join(sorted(theirs))}" if same_model else "one of another model",
                fix="leave --restart out, and choose another --output",
            )
        changed = differences(found.identity, self.problem.identity)
        if changed:
            raise ConfigurationError(
                f"state of a fit '{self.folder / STATE}'",
                expected="that of the same configuration, which may only differ in "
                f"{', '.join(FREE)}, and of files that are the same",
                got=f"another {', '.join(changed)}",
                fix="undo the change; or leave --restart out, and choose another --output",
            )
        self.optimizer.load_state_dict(found.optimizer)
        self.rows = [dict(row) for row in found.rows]

    def _require_free(self) -> None:
        there = [name for name in (TABLE, MODEL, DOCUMENT, STATE) if (self.folder / name).exists()]
        if there:
            raise ConfigurationError(
                f"output '{self.folder / there[0]}'",
                expected="a folder without files of another fit",
                got="an existing file",
                fix="pass --restart to go on, --force to overwrite it, or another --output",
            )

    def _write_table(self) -> None:
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({key: f"{value:.9g}" for key, value in row.items()})
        write_atomically(self.folder / TABLE, text.getvalue().encode())

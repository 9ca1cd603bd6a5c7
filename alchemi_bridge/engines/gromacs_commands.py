"""The programs of GROMACS at work: ``grompp``, ``mdrun``, and what they wrote."""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from alchemi_bridge.domain.ranks import environment_of_one
from alchemi_bridge.engines import plumed_plugin
from alchemi_bridge.engines.gromacs_files import TrajectoryFrame, read_trr
from alchemi_bridge.errors import EvaluationError, InputError, first_line

#: How messages of the bridge begin that GROMACS prints.
BRIDGE = "alchemi_bridge: "

#: What a log says of a run that was told to stop, which is no failure for GROMACS.
STOPPED = ("Received the ", "Run time exceeded")


@dataclass(frozen=True)
class Gromacs:
    """A program of GROMACS.

    Attributes
    ----------
    program
        Its path.
    version
        As it tells it: ``2025.2``, perhaps followed by what a distribution adds.
    double
        Whether it computes in double precision.
    """

    program: Path
    version: str
    double: bool

    def call(
        self,
        command: str,
        *arguments: object,
        folder: Path,
        typed: str = "",
        variables: Mapping[str, str] | None = None,
        timeout: float = 600.0,
    ) -> str:
        """Run one of its commands, which must not fail.

        Parameters
        ----------
        command, arguments
            ``"grompp"``, and what follows on the command line.
        folder
            Where it runs.
        typed
            What it reads from standard input.
        variables
            Of the environment, to be set.
        timeout
            Seconds.

        Returns
        -------
        str
            What it printed.

        Raises
        ------
        EvaluationError
            If it can not be started, fails, or takes too long: with GROMACS' own message.
        """
        words = [str(self.program), "-quiet", command, *map(str, arguments)]
        try:
            done = subprocess.run(
                words,
                cwd=folder,
                input=typed,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout,
                env={**environment(), **(variables or {})},
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(command, first_line(error)) from error
        if done.returncode != 0:
            code = done.returncode
            ended = f"signal {-code}" if code < 0 else f"exit status {code}"
            raise _failed(command, f"{ended}: {message_of(done.stdout)}")
        return done.stdout

    def grompp(
        self,
        folder: Path,
        *,
        parameters: str,
        structure: str,
        topology: str,
        name: str,
        extra: Sequence[object] = (),
    ) -> Path:
        """Make the input of a run, ``name.tpr``.

        Parameters
        ----------
        folder
            Where the files are.
        parameters, structure, topology
            Names of the ``.mdp``, ``.gro`` and ``.top`` files.
        name
            Name of the run.
        extra
            Further words of the command line.

        Raises
        ------
        EvaluationError
            See :meth:`call`.
        """
        files = ["-f", parameters, "-c", structure, "-p", topology]
        made = ["-o", f"{name}.tpr", "-po", f"{name}.mdout.mdp"]
        self.call("grompp", *files, *made, *extra, folder=folder)
        return folder / f"{name}.tpr"

    def mdrun(
        self,
        folder: Path,
        name: str,
        *,
        bridge: str | None = None,
        extra: Sequence[object] = (),
        threads: int = 1,
        timeout: float = 600.0,
    ) -> Run:
        """Run ``name.tpr``.

        Parameters
        ----------
        folder
            Where it is.
        name
            Name of the run; all files that it writes begin so.
        bridge
            Name of the file that says which model computes which atoms; None for a run without.
        extra
            Further words of the command line.
        threads
            OpenMP threads, of GROMACS and of the model.
        timeout
            Seconds.

        Raises
        ------
        EvaluationError
            If it fails, or stops before its end: what it has written by then is no result.
        ConfigurationError
            If the bridge's library for it can not be built.
        """
        variables = {"OMP_NUM_THREADS": str(threads)}
        words: list[object] = ["-s", f"{name}.tpr", "-deffnm", name]
        if "mpi" not in self.program.name:
            words += ["-ntmpi", 1]
        words += ["-ntomp", threads, "-pin", "off"]
        if bridge is not None:
            variables["PLUMED_KERNEL"] = str(plumed_plugin.build())
            words += ["-plumed", bridge]
        (folder / f"{name}.log").unlink(missing_ok=True)
        said = self.call(
            "mdrun", *words, *extra, folder=folder, variables=variables, timeout=timeout
        )
        run = Run(self, folder, name, said)
        if "Finished mdrun" not in run.log or any(words in run.log for words in STOPPED):
            raise _failed("mdrun", f"a run that stopped early: {message_of(said)}")
        return run


@dataclass(frozen=True)
class Run:
    """A run that came to its end.

    Attributes
    ----------
    gromacs
        What it ran in.
    folder, name
        Where its files are, and how they begin.
    said
        What ``mdrun`` printed.
    """

    gromacs: Gromacs
    folder: Path
    name: str
    said: str

    @cached_property
    def log(self) -> str:
        """The log file."""
        path = self.folder / f"{self.name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    @property
    def nanoseconds_per_day(self) -> float:
        """Simulated time in a day, as the log has it: of the steps since ``-resetstep``, if given.

        Raises
        ------
        EvaluationError
            If the log does not tell.
        """
        found = re.search(r"^Performance:\s+(\S+)", self.log, re.MULTILINE)
        if found is None:
            raise _failed("mdrun", "a log without its performance")
        return float(found[1])

    def energies(self, *names: str) -> dict[str, np.ndarray]:
        """Terms of the energy file, for each of its frames; with ``"Time"``, ps.

        Parameters
        ----------
        names
            As GROMACS calls them: ``"Potential"``, ``"Kinetic-En."``, ``"Pressure"``, ``"Vir-XX"``.

        Returns
        -------
        dict
            (F,) float64 arrays in GROMACS' units.

        Raises
        ------
        InputError
            If there is no such term.
        EvaluationError
            If they can not be read.
        """
        with tempfile.TemporaryDirectory() as scratch:
            table = Path(scratch) / "energies.xvg"
            self.gromacs.call(
                "energy", "-f", f"{self.name}.edr", "-o", table, "-dp",
                folder=self.folder, typed="".join(f"{name}\n" for name in names) + "\n",
            )  # fmt: skip
            lines = table.read_text(encoding="utf-8").splitlines()
        # the columns are in the order of the file, not in that of the question
        legends = [m[1] for line in lines if (m := re.match(r'@ s\d+ legend "(.*)"', line))]
        rows = [line.split() for line in lines if line.strip() and line[0] not in "#@"]
        columns = np.array(rows, dtype=np.float64).reshape(-1, 1 + len(legends)).T
        terms = ["Time", *(legend.replace(" ", "-") for legend in legends)]
        found = dict(zip(terms, columns, strict=True))
        for name in names:
            if name.replace(" ", "-") not in found:
                raise InputError(
                    f"term '{name}' of {self.name}.edr",
                    expected=f"one of {', '.join(found)}",
                    got="another name",
                    fix="see what 'gmx energy' offers",
                )
        return found

    def frames(self) -> list[TrajectoryFrame]:
        """Frames of the ``.trr`` file, at full precision."""
        return read_trr(self.folder / f"{self.name}.trr")


def environment() -> dict[str, str]:
    """The environment that its programs run in: nothing is kept under names like #file.1#."""
    return {**environment_of_one(), "GMX_MAXBACKUP": "-1"}


def message_of(said: str) -> str:
    """GROMACS' message in what it printed when it failed, in one line; else the last lines."""
    lines = [line.strip() for line in said.splitlines()]
    # grompp says what is wrong before it says that something is; a warning is enough to fail
    for kind in ("ERROR", "WARNING"):
        wrong = [k for k, line in enumerate(lines) if re.match(rf"{kind} \d+ \[", line)]
        if wrong:
            return " ".join(itertools.takewhile(bool, lines[wrong[0] :]))
    starts = [k for k, line in enumerate(lines) if line.startswith("Source file:")]
    if starts:
        block = []
        for line in lines[starts[0] + 1 :]:
            if line.startswith(("For more information", "-----")):
                break
            if line and not line.startswith(("Function:", "MPI rank:")):
                block.append(line)
        if block:
            # what the bridge says is no "Internal error (bug)", as GROMACS has it
            whole = " ".join(block)
            return whole[max(whole.find(BRIDGE), 0) :]
    last = [line for line in lines if line and not line.startswith("-----")][-5:]
    return " / ".join(last) or "nothing was printed"


def _failed(command: str, got: str) -> EvaluationError:
    return EvaluationError(
        f"gmx {command}",
        expected="to come to its end",
        got=got,
        fix="see what GROMACS says; what it has written by then is no result",
    )

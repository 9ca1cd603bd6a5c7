"""The folder into which a training writes: nobody else's files in it, and no second training."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.model.files import remove_unfinished
from alchemi_bridge.model.locks import locked
from alchemi_bridge.training.checkpoint import numbered, step_of

#: How the table of a learning curve begins; that of the Kalman filter has no learning rate.
CURVE_BEGINS = (b"step,learning_rate", b"step,training_energy")


@dataclass(frozen=True)
class OutputFolder:
    """Where checkpoints and learning curve of one training are.

    ``NAME`` stands for the last of the files ``NAME-STEP.pt``, so that they must all be of one run.

    Attributes
    ----------
    folder
        Made with those in the names, before anything is written.
    checkpoint, curve_file
        Beginning of the names of checkpoints, and name of the table, as the input has them.
    """

    folder: Path
    checkpoint: str
    curve_file: str

    @property
    def name(self) -> Path:
        """Beginning of the paths of checkpoints."""
        return self.folder / self.checkpoint

    @property
    def curve(self) -> Path:
        """The table; its picture has the suffix ``.png``."""
        return self.folder / self.curve_file

    def path(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.name.with_name(f"{self.name.name}-{step}.pt")

    def in_the_way(self, restart: Path | None) -> list[Path]:
        """Files of other runs: all but those of the run whose checkpoint ``restart`` is.

        Parameters
        ----------
        restart
            The checkpoint from which the training goes on, if it does.
        """
        files = numbered(self.name)
        own = [path for path in files if restart is not None and _same(path, restart)]
        if own:
            return [path for path in files if step_of(path) > step_of(own[0])]
        return files + ([self.curve] if self.curve.exists() else [])

    def check(self, *, restart: Path | None, finetune: Path | None, force: bool) -> None:
        """Refuse to mix files of two runs.

        Parameters
        ----------
        restart, finetune
            Checkpoint to begin from.
        force
            Whether files of other runs may be removed.

        Raises
        ------
        ConfigurationError
            If files of another run are there and ``force`` is not given, they are what the training
            begins from, the table is a file of another kind, a name is not usable, two name the
            same file, or nothing can be written to a folder.
        """
        self._check_names()
        for path in (self.name, self.curve):
            self._check_folder(path)
        if self.curve.exists() and not _is_curve(self.curve):
            raise ConfigurationError(
                f"learning curve '{self.curve}'",
                expected="no file, or the table of a training (step,...,training_energy,...)",
                got="a file of another kind",
                fix="move it away, or choose another training.disp_file",
            )
        others = self.in_the_way(restart)
        if others and not force:
            raise ConfigurationError(
                f"output '{others[0]}'",
                expected="a folder without files of another run"
                if restart is None
                else f"no later or other files than those of the run of '{restart}'",
                got="an existing file",
                fix="pass --restart to go on from the last checkpoint, --force to remove the old "
                "checkpoints and curve, or another --output",
            )
        if finetune is not None and any(_same(path, finetune) for path in others):
            raise ConfigurationError(
                "--finetune",
                expected="a checkpoint that --force does not remove",
                got=str(finetune),
                fix="choose another --output",
            )

    def _check_names(self) -> None:
        for key, text in (("save_ckpt", self.checkpoint), ("disp_file", self.curve_file)):
            if Path(text).name in ("", "..") or text.endswith("/"):
                raise ConfigurationError(
                    f"training.{key}",
                    expected="the name of a file",
                    got=repr(text),
                    fix="write 'model.ckpt' or 'lcurve.csv', for example",
                )
        if self.curve.suffix == ".png":
            raise ConfigurationError(
                "training.disp_file",
                expected="the name of a table; the picture beside it ends in .png",
                got=repr(self.curve_file),
                fix="write 'lcurve.csv', for example",
            )
        name, curve = (
            Path(os.path.realpath(path.parent), path.name) for path in (self.name, self.curve)
        )
        others = {curve, curve.with_suffix(".png")}
        checkpoints = re.compile(re.escape(name.name) + r"-\d+\.pt")
        if (
            others & {name, *name.parents}
            or name in curve.parents
            or (curve.parent == name.parent and checkpoints.fullmatch(curve.name))
        ):
            raise ConfigurationError(
                "training.disp_file",
                expected=f"another name than those of checkpoints, {self.checkpoint!r} with and "
                "without -STEP.pt, and of folders of them, also with .png, the picture's suffix",
                got=repr(self.curve_file),
                fix="write 'lcurve.csv', for example",
            )

    def _check_folder(self, path: Path) -> None:
        """Of the folders that are there the last one is a folder, and others can be made in it."""
        # not Path.exists(), which raises an error where nothing may be looked at
        folder = next(one for one in path.parents if os.path.exists(one) or one == one.parent)
        if not folder.is_dir():
            raise self._unusable(path, folder, "which is no folder")
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise self._unusable(path, folder, "where files can not be listed and written")

    def _unusable(self, path: Path, folder: Path, why: str) -> ConfigurationError:
        """An error about a folder that :attr:`name` or :attr:`curve` needs, to be raised."""
        key, text = "save_ckpt", self.checkpoint
        if path == self.curve:
            key, text = "disp_file", self.curve_file
        what, choose = f"training.{key} {text!r}", f"training.{key}"
        if not Path(text).is_absolute() and folder in (self.folder, *self.folder.parents):
            what, choose = f"--output '{self.folder}'", "--output"
        return ConfigurationError(
            what,
            expected="a folder that files can be written to, or that can be made",
            got=f"'{folder}', {why}",
            fix=f"choose another {choose}, or ask for the right to write there",
        )

    def _in_use(self, path: Path) -> ConfigurationError:
        return ConfigurationError(
            f"output '{path}'",
            expected="one training at a time that writes files with this name",
            got="another one that is running",
            fix="wait for it, or choose another --output, training.save_ckpt or training.disp_file",
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other trainings out of these files, for as long as the context lasts.

        What a killed run left half written is removed.

        Raises
        ------
        ConfigurationError
            If another training is writing, or nothing can be written to a folder.
        """
        checkpoints, curve = re.escape(self.name.name) + r"-\d+\.pt", re.escape(self.curve.name)
        # tables of two names may have one picture
        picture = self.curve.with_suffix(".png")
        with ExitStack() as stack:
            for path, lock in ((self.name, self.name), (self.curve, picture)):
                folder = self.folder
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    folder = path.parent
                    folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(locked(lock, self._in_use(lock)))
                except OSError as error:
                    why = f"where no file can be made: {error.strerror}"
                    raise self._unusable(path, folder, why) from error
            remove_unfinished(self.name.parent, re.compile(checkpoints))
            remove_unfinished(self.curve.parent, re.compile(curve))
            yield


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _is_curve(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(max(map(len, CURVE_BEGINS))).startswith(CURVE_BEGINS)

"""The folder of a training: files of one run only, one training at a time, nothing left behind."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import training_parts
from cli_runs import Cli
from training_parts import make, train

from alchemi_bridge.errors import ConfigurationError, ModelLoadError
from alchemi_bridge.model.files import write_atomically
from alchemi_bridge.potentials.deepmd import FrameResults
from alchemi_bridge.training import Start, freeze
from alchemi_bridge.training.checkpoint import load, numbered
from alchemi_bridge.training.output import OutputFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an input, and in ``out`` a training of 12 steps."""
    folder = tmp_path_factory.mktemp("training")
    training_parts.write_data(folder / "data")
    (folder / "out").mkdir()
    train(training_parts.write_input(folder), folder / "out")
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "copy")


def steps_of(output: Path) -> list[int]:
    with (output / "lcurve.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_fresh_start_does_not_mix_runs(folder: Path) -> None:
    """NAME would stand for the longer run that was there before."""
    path, out = training_parts.write_input(folder, training__numb_steps=3), folder / "out"
    with pytest.raises(
        ConfigurationError, match=r"model\.ckpt-6\.pt.*--restart.*--force.*--output"
    ):
        make(path, out)
    for file in numbered(out / "model.ckpt"):
        file.unlink()
    with pytest.raises(ConfigurationError, match=r"lcurve\.csv"):
        make(path, out)


def test_force_removes_the_files_of_the_other_run(folder: Path) -> None:
    path, out = training_parts.write_input(folder, training__numb_steps=3), folder / "out"
    train(path, out, Start(force=True))
    assert [p.name for p in numbered(out / "model.ckpt")] == ["model.ckpt-3.pt"]
    assert steps_of(out) == [0, 3]
    start = Start(finetune=out / "model.ckpt", force=True)
    with pytest.raises(ConfigurationError, match=r"--finetune.*does not remove"):
        make(path, out, start)


def test_restart_goes_on_with_the_run_of_its_checkpoint(folder: Path) -> None:
    path, out = training_parts.write_input(folder, training__numb_steps=9), folder / "out"
    first = out / "model.ckpt-6.pt"
    with pytest.raises(ConfigurationError, match=r"model\.ckpt-12\.pt"):
        make(path, out, Start(restart=first))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(out / "lcurve.csv", elsewhere)
    with pytest.raises(ConfigurationError, match=r"elsewhere/lcurve\.csv"):
        make(path, elsewhere, Start(restart=first))
    # the rows are those of the checkpoint, wherever it goes on, and whatever the file says
    (out / "lcurve.csv").write_text("step,learning_rate\n2,7\n")
    for place in (out, elsewhere):
        train(path, place, Start(restart=first, force=True))
        assert steps_of(place) == [0, 4, 8, 9]
    assert [p.name for p in numbered(out / "model.ckpt")] == ["model.ckpt-6.pt", "model.ckpt-9.pt"]


def test_nothing_left_to_do_writes_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, empty = training_parts.write_input(folder), folder / "empty"
    empty.mkdir()
    training = train(path, empty, Start(restart=folder / "out" / "model.ckpt"))
    assert "nothing is left to do" in caplog.text
    assert training.last_checkpoint == folder / "out" / "model.ckpt-12.pt"
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("content", [b"# step rmse\n1 2 3\n", b"\xff\xfe\x00", b""])
def test_a_file_that_is_no_curve_is_left_alone(folder: Path, content: bytes) -> None:
    curve = folder / "out" / "lcurve.csv"
    curve.write_bytes(content)
    path = training_parts.write_input(folder, training__numb_steps=14)
    for start in (Start(restart=folder / "out" / "model.ckpt"), Start(force=True)):
        with pytest.raises(ConfigurationError, match=r"learning curve '.*lcurve\.csv'"):
            make(path, folder / "out", start)
    assert curve.read_bytes() == content


def test_names_of_files(folder: Path) -> None:
    """Folders in them are made before the first step; what can not be a file is refused."""
    path = training_parts.write_input(
        folder, training__save_ckpt="new/model", training__disp_file="other/curve.csv",
        training__numb_steps=2,
    )  # fmt: skip
    (folder / "empty").mkdir()
    train(path, folder / "empty")
    assert load(folder / "empty" / "new" / "model").step == 2
    assert (folder / "empty" / "other" / "curve.png").exists()
    for key, name in (("disp_file", "lc.png"), ("disp_file", "."), ("save_ckpt", "..")):
        path = training_parts.write_input(folder, **{f"training__{key}": name})
        with pytest.raises(ConfigurationError, match=rf"training\.{key}"):
            make(path, folder / "empty")


@pytest.mark.parametrize(
    ("checkpoint", "curve"),
    [
        ("model.ckpt", "model.ckpt-12.pt"),
        ("lcurve.csv", "./lcurve.csv"),
        ("run/model", "run/../run/model-3.pt"),
        ("lcurve.png", "lcurve.csv"),
        ("out/model", "out"),
        ("lcurve.png/model", "lcurve.csv"),
        ("model", "model/lcurve.csv"),
    ],
)
def test_names_that_collide(folder: Path, checkpoint: str, curve: str) -> None:
    """The curve would be taken for a checkpoint, replace one, or be where a folder must be."""
    path = training_parts.write_input(
        folder, training__save_ckpt=checkpoint, training__disp_file=curve
    )
    with pytest.raises(ConfigurationError, match=r"training\.disp_file.*names? than those") as said:
        make(path, folder / "empty")
    assert repr(curve) in str(said.value)
    assert repr(checkpoint) in str(said.value)
    assert not (folder / "empty").exists()
    # names that only look alike are no obstacle
    for name in ("model.ckpt-last.pt", "model.ckpt-3.pt.csv", "other/model.ckpt-3.pt"):
        OutputFolder(folder, "model.ckpt", name).check(restart=None, finetune=None, force=False)


def test_folders_that_can_not_be_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where a folder must be, and no right to write: the key, or --output, is named."""
    file = folder / "input.json"
    for key, name in (("save_ckpt", "input.json/model"), ("disp_file", "input.json/a/lc.csv")):
        path = training_parts.write_input(folder, **{f"training__{key}": name})
        with pytest.raises(
            ConfigurationError, match=rf"training\.{key} '{name}'.*input\.json', which is no folder"
        ):
            make(path, folder)
    path = training_parts.write_input(folder)
    for output in (file, file / "below"):
        with pytest.raises(ConfigurationError, match=r"--output '.*, which is no folder"):
            make(path, output)
    # root may write everywhere, so that the right is taken from the call
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != folder)
    with pytest.raises(ConfigurationError, match=r"--output '.*new'.*listed and written"):
        make(path, folder / "new" / "new")
    path = training_parts.write_input(folder, training__save_ckpt=str(folder / "new" / "model"))
    with pytest.raises(ConfigurationError, match=r"training\.save_ckpt.*listed and written"):
        make(path, folder / "out" / "new")


def test_a_folder_that_turns_out_to_be_unusable(folder: Path) -> None:
    """Whatever came between the check and the first step."""
    training = make(training_parts.write_input(folder), folder / "late")
    (folder / "late").touch()
    with pytest.raises(ConfigurationError, match=r"--output '.*late'.*no file can be made: File"):
        next(training.steps())
    path = training_parts.write_input(folder, training__save_ckpt="a/model")
    training = make(path, folder / "new")
    (folder / "new").mkdir()
    (folder / "new" / "a").touch()
    with pytest.raises(ConfigurationError, match=r"training\.save_ckpt 'a/model'.*File exists"):
        next(training.steps())


@pytest.mark.parametrize("start", [Start(restart=Path("no")), Start(finetune=Path("no"))])
def test_a_checkpoint_that_is_not_there_is_said_first(folder: Path, start: Start) -> None:
    """Before files of other runs, which --restart with the right name may go on with."""
    with pytest.raises(ModelLoadError, match=r"checkpoint 'no'.*no such checkpoint"):
        make(training_parts.write_input(folder), folder / "out", start)


def test_one_training_at_a_time(folder: Path) -> None:
    path = training_parts.write_input(folder, training__numb_steps=14)
    training = make(path, folder / "out", Start(restart=folder / "out" / "model.ckpt"))
    with (
        OutputFolder(folder / "out", "model.ckpt", "lcurve.csv").held(),
        pytest.raises(ConfigurationError, match="another one that is running"),
    ):
        next(training.steps())
    # the same table, or another one with the same picture
    for curve in ("lcurve.csv", "lcurve.txt"):
        with (
            OutputFolder(folder / "out", "other.ckpt", curve).held(),
            pytest.raises(ConfigurationError, match=r"lcurve\.png.*another one that is running"),
        ):
            next(training.steps())
    # other names in the same folder are another training
    with OutputFolder(folder / "out", "other.ckpt", "other.csv").held():
        assert next(
            make(path, folder / "out", Start(restart=folder / "out" / "model.ckpt")).steps()
        )
    assert not list((folder / "out").glob(".*"))


def test_what_a_killed_run_left_is_removed(folder: Path) -> None:
    out = folder / "out"
    left = [
        out / ".0123abcd-model.ckpt-18.pt",
        out / ".89abcdef-lcurve.csv",
        out / ".model.ckpt.lock",
    ]
    kept = [out / ".0123abcd-other.ckpt-18.pt", out / ".model.ckpt-18.pt.swp"]
    for path in left + kept:
        path.write_bytes(b"half")
    path = training_parts.write_input(folder, training__numb_steps=13)
    train(path, out, Start(restart=out / "model.ckpt"))
    assert [path.exists() for path in left + kept] == [False] * 3 + [True] * 2


def test_files_have_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_freeze_does_not_overwrite_checkpoints(folder: Path) -> None:
    """By their own name, by another one, or where NAME would then stand for the model."""
    out = folder / "out"
    shutil.copy(out / "model.ckpt-6.pt", folder / "best.pt")
    for output in (out / "model.ckpt-12.pt", folder / "best.pt", out / "model.ckpt-99.pt"):
        before = output.read_bytes() if output.exists() else None
        with pytest.raises(ConfigurationError, match="path of the model file"):
            freeze(out / "model.ckpt", output)
        assert (output.read_bytes() if output.exists() else None) == before
    with pytest.raises(ConfigurationError, match="path of the model file"):
        freeze(out / "model.ckpt", folder)


def test_errors_that_are_not_finite(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning in a training, an error in a test; JSON stays JSON."""
    import alchemi_bridge.training.rmse as rmse
    from alchemi_bridge.training.loop import Training

    cli = Cli(capsys)
    predict = rmse.predict

    def spoilt(*arguments: object) -> rmse.Predictions:
        found = predict(*arguments)  # type: ignore[arg-type]
        found.forces[3, 1] = np.nan
        return found

    monkeypatch.setattr(rmse, "predict", spoilt)
    cli("test", folder / "out" / "model.ckpt", folder / "data", "--json").failed_with(
        "forces of", "data/alloy", "frame 3"
    )
    steps = Training.steps

    def with_nan_in_the_validation(self: Training) -> Iterator[int]:
        self._evaluate = lambda batch, old=self._evaluate: _nan(old(batch))  # type: ignore
        return steps(self)

    monkeypatch.setattr(Training, "steps", with_nan_in_the_validation)
    path = training_parts.write_input(
        folder, training__numb_steps=14, training__validation_data={"systems": "data"}
    )
    done = cli(
        "train", path, "--output", folder / "out", "--device", "cpu", "--json",
        "--restart", folder / "out" / "model.ckpt",
    )  # fmt: skip
    assert done.document["errors"]["validation_force"] is None
    assert "validation errors at step 14" in done.stderr


def _nan(results: FrameResults) -> FrameResults:
    results.forces[0, 0] = np.nan
    return results

"""Model files are whole or not there: convert, freeze, potentials and the export for GROMACS."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import deepmd_golden as golden
import deepmd_standin as standin
import pytest
import torch
from cli_runs import Cli
from trust_files import check_message, records_of

from alchemi_bridge import potentials
from alchemi_bridge.engines.nnpot.export import export as export_for_gromacs
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.model import load_model
from alchemi_bridge.model.files import save_model
from alchemi_bridge.potentials.deepmd import convert
from alchemi_bridge.training import checkpoint as checkpoints
from alchemi_bridge.training import freeze


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen model, a checkpoint and a metatomic model."""
    folder = tmp_path_factory.mktemp("sources")
    standin.save(folder / "frozen.pth")
    model, definition = golden.load("se_e2_a-one-side")
    checkpoints.save(
        folder / "ckpt.pt",
        checkpoints.Checkpoint(
            definition=definition, step=1, model=model.state_dict(), optimiser={}, plan={}
        ),
    )
    potentials.export("lennard-jones", folder / "lj.pt")
    return folder


Writer = Callable[[Path, Path], object]
WRITERS: dict[str, Writer] = {
    "convert": lambda folder, path: convert(folder / "frozen.pth", path),
    "freeze": lambda folder, path: freeze(folder / "ckpt.pt", path),
    "potential": lambda _, path: potentials.export("lennard-jones", path),
    "gromacs": lambda folder, path: export_for_gromacs(folder / "lj.pt", path, contract="2025"),
}
every_writer = pytest.mark.parametrize("name", WRITERS)


@every_writer
def test_a_full_disk_leaves_the_old_file(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    path.write_text("precious")
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        write(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/model\.pt'"):
        WRITERS[name](folder, path)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


@every_writer
def test_a_folder_is_no_file(name: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.mkdir()
    with pytest.raises(ConfigurationError, match="the folder") as error:
        WRITERS[name](folder, path)
    check_message(error)


@every_writer
def test_a_folder_that_can_not_be_written_to(name: str, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="a folder that files can be written to") as error:
        WRITERS[name](folder, Path("/proc/self/model.pt"))  # not even for root
    check_message(error)


@every_writer
def test_an_old_file_is_replaced(name: str, folder: Path, tmp_path: Path) -> None:
    """Readers of the old one keep it; a link stays a link; the rights are those of any new file."""
    path, link = tmp_path / "model.pt", tmp_path / "link.pt"
    path.write_text("old")
    link.symlink_to(path)
    old = os.umask(0o027)
    try:
        with path.open() as reader:
            WRITERS[name](folder, link)
            assert reader.read() == "old"
    finally:
        os.umask(old)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    torch.jit.load(str(path))
    assert sorted(tmp_path.iterdir()) == [link, path]


def test_the_name_in_the_archive_is_that_of_the_file(tmp_path: Path) -> None:
    """Nothing in the file tells where it was made."""
    path = tmp_path / "argon.pt"
    save_model(potentials.build("lennard-jones"), path)
    assert {name.partition("/")[0] for name, _ in records_of(path)} == {"argon"}
    assert load_model(path).cutoff > 0.0


def test_freeze_does_not_overwrite(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli, path = Cli(capsys), tmp_path / "model.pt"
    path.write_text("precious")
    run = cli("freeze", folder / "ckpt.pt", path)
    assert run.status == 2
    assert "pass --force to overwrite it, or name another file" in run.stderr
    assert path.read_text() == "precious"
    assert cli("freeze", folder / "ckpt.pt", path, "--force").status == 0
    assert load_model(path).metadata.name == "DeePMD se_e2_a"
    run = cli("freeze", folder / "ckpt.pt", tmp_path, "--force")
    assert run.status == 2
    assert "got a folder" in run.stderr

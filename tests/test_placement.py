"""Which GPU a rank uses, from its launcher's environment."""

from __future__ import annotations

import logging

import pytest
import torch

from alchemi_bridge.device import cuda_devices, place
from alchemi_bridge.device.placement import LAUNCHERS, local_rank
from alchemi_bridge.errors import ConfigurationError, DeviceMismatchError

RANK_NAMES = [rank for _, rank, _ in LAUNCHERS]


def test_without_a_launcher() -> None:
    assert local_rank({}) == (0, 1, "no launcher")
    assert place(4, environ={}).device == torch.device("cuda", 0)


@pytest.mark.parametrize(("launcher", "rank_name", "size_name"), LAUNCHERS)
def test_each_launcher(launcher: str, rank_name: str, size_name: str | None) -> None:
    environ = {rank_name: "2"} | ({size_name: "4"} if size_name else {})
    rank, size, source = local_rank(environ)
    assert (rank, size) == (2, 4 if size_name else None)
    assert launcher in source
    found = place(4, environ=environ)
    assert found.device == torch.device("cuda", 2)
    assert found.shared is False


@pytest.mark.parametrize("inner", [name for name in RANK_NAMES if name != "SLURM_LOCALID"])
def test_launchers_inside_a_batch_job_come_first(inner: str) -> None:
    """mpirun inherits the number of the batch script's task, 0, in all of its ranks."""
    assert place(4, environ={"SLURM_LOCALID": "0", inner: "3"}).device.index == 3


def test_torchrun_inside_mpirun() -> None:
    environ = {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert place(2, environ=environ).device.index == 1


@pytest.mark.parametrize(
    ("text", "size"), [("4", 4), ("4(x2)", 4), ("4(x2),3", None), ("2,1", None)]
)
def test_tasks_of_slurm(text: str, size: int | None) -> None:
    environ = {"SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": text}
    assert local_rank(environ)[:2] == (1, size)


def test_explicit_rank_beats_the_environment() -> None:
    found = place(4, rank=1, size=2, environ={"LOCAL_RANK": "3"})
    assert found.device.index == 1
    assert found.source == "the caller"


def test_choice_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="alchemi_bridge")
    place(4, environ={"SLURM_LOCALID": "2"})
    assert [r.levelname for r in caplog.records] == ["INFO"]
    for words in ("rank 2", "SLURM_LOCALID", "cuda:2", "of 4"):
        assert words in caplog.text


@pytest.mark.parametrize("rank", range(5))
def test_more_ranks_than_gpus_warn(caplog: pytest.LogCaptureFixture, rank: int) -> None:
    caplog.set_level(logging.WARNING, logger="alchemi_bridge")
    found = place(2, rank=rank, size=5, environ={})
    assert found.device.index == rank % 2
    assert found.shared is True  # of all ranks, also of those that find a device of their number
    assert "5 ranks of this node share 2 CUDA devices" in caplog.text
    assert f"cuda:{rank % 2}" in caplog.text


def test_more_ranks_than_gpus_as_an_error() -> None:
    for rank in range(3):
        with pytest.raises(ConfigurationError, match="at most one for each of 2") as caught:
            place(2, rank=rank, size=3, sharing="error", environ={})
        assert "sharing='warn'" in caught.value.fix
    # without a number of ranks the rank's own number tells
    with pytest.raises(ConfigurationError):
        place(2, sharing="error", environ={"FLUX_TASK_LOCAL_ID": "2"})
    assert place(2, sharing="error", environ={"FLUX_TASK_LOCAL_ID": "1"}).device.index == 1


def test_sharing_can_be_meant(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="alchemi_bridge")
    assert place(1, rank=1, size=2, sharing="allow", environ={}).device.index == 0
    assert not caplog.records


def test_launcher_that_hides_the_other_gpus() -> None:
    """With a GPU for each task, every rank sees one device, which is its own."""
    environ = {"SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": "GPU-3f1c"}
    found = place(1, sharing="error", environ=environ)
    assert found.device.index == 0
    assert found.shared is False
    with pytest.raises(ConfigurationError):
        place(2, sharing="error", environ={**environ, "CUDA_VISIBLE_DEVICES": "0,1"})


@pytest.mark.parametrize("name", RANK_NAMES)
@pytest.mark.parametrize("text", ["", "two", "-1", "1.5"])
def test_nonsense_in_the_environment(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        place(2, environ={name: text})


@pytest.mark.parametrize(
    "environ",
    [
        {"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"},
        {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "0"},
        {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "many"},
    ],
)
def test_sizes_that_do_not_fit(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        place(2, environ=environ)


@pytest.mark.parametrize("given", [{"rank": -1}, {"rank": 2, "size": 2}])
def test_explicit_numbers_that_do_not_fit(given: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="from the caller"):
        place(4, environ={}, **given)


def test_unknown_choice() -> None:
    with pytest.raises(ConfigurationError, match="'maybe'"):
        place(1, sharing="maybe", environ={})


def test_no_gpu() -> None:
    with pytest.raises(DeviceMismatchError, match="rank 1"):
        place(0, rank=1, environ={})
    if cuda_devices() == 0:
        with pytest.raises(DeviceMismatchError):
            place(environ={})


@pytest.mark.gpu
@pytest.mark.skipif(cuda_devices() == 0, reason="needs a CUDA device")
def test_devices_of_this_machine() -> None:
    found = place(environ={"LOCAL_RANK": str(cuda_devices() - 1)})
    assert found.n_devices == cuda_devices()
    assert torch.zeros(1, device=found.device).device == found.device

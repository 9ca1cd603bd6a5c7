"""Which torch device to use."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alchemi_bridge.errors import DeviceMismatchError


def select_device(supported: Sequence[str], wanted: str | torch.device | None) -> torch.device:
    """Choose a device that the model supports and this process has.

    Parameters
    ----------
    supported
        Device types in the model's order of preference (``capabilities.supported_devices``).
    wanted
        A device such as ``"cuda"`` or ``"cuda:1"``; ``None`` takes the model's first choice that
        is there.

    Returns
    -------
    torch.device
        With an index for CUDA, so that it compares equal to the device of a tensor.

    Raises
    ------
    DeviceMismatchError
        If the device is not there, or the model does not support it.
    """
    if wanted is None:
        for kind in supported:
            if _count(kind) > 0:
                return _indexed(torch.device(kind))
        raise DeviceMismatchError(
            "device",
            expected=f"one of the devices that the model supports ({', '.join(supported)})",
            got="none of them on this machine",
            fix="run on a machine that has one, or export the model for 'cpu'",
        )
    try:
        device = torch.device(wanted)
    except (RuntimeError, TypeError, ValueError) as error:
        raise DeviceMismatchError(
            "device",
            expected="a torch device such as 'cpu', 'cuda' or 'cuda:1'",
            got=repr(wanted),
            fix="correct the name",
        ) from error
    if device.type not in supported:
        raise DeviceMismatchError(
            "device",
            expected=f"one of the devices that the model supports ({', '.join(supported)})",
            got=f"'{device}'",
            fix=f"choose device='{supported[0]}'",
        )
    there = _count(device.type)
    # torch keeps an index in one byte: 'cuda:200' becomes a negative one, 'cuda:256' the first
    misread = isinstance(wanted, str) and ":" in wanted and wanted != str(device)
    if misread or not 0 <= (device.index or 0) < there:
        raise DeviceMismatchError(
            "device",
            expected=f"a device of this machine ({there} of type '{device.type}')",
            got=f"'{wanted}'",
            fix="choose another device, or check the driver with 'alchemi-bridge doctor'",
        )
    return _indexed(device)


def cuda_devices() -> int:
    """How many CUDA devices this process can use.

    A driver that is too old for this build of torch, or a forked child, still counts devices, but
    can not use them.
    """
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _count(kind: str) -> int:
    if kind == "cpu":
        return 1
    if kind == "cuda":
        return cuda_devices()
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return 0


def _indexed(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    if device.type == "mps":
        return torch.device("mps", 0)
    return torch.device("cpu") if device.type == "cpu" else device

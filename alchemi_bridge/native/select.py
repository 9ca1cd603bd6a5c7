"""Which way the hot path runs on a device: compiled kernels, or plain torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch

from alchemi_bridge.compiling import UnavailableError
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.native.cuda import cuda_launcher
from alchemi_bridge.native.host import host_launcher
from alchemi_bridge.native.launch import Launcher

LOGGER = logging.getLogger(__name__)

#: ``auto`` (compiled where possible, else torch), ``native`` (an error where not), ``torch``.
VARIABLE = "ALCHEMI_BRIDGE_KERNELS"
CHOICES = ("auto", "native", "torch")

_chosen: ContextVar[str | None] = ContextVar("alchemi_bridge_kernels", default=None)


@dataclass(frozen=True)
class KernelPath:
    """What runs the hot path on a type of device.

    Attributes
    ----------
    launcher
        Runs compiled kernels; ``None`` for plain torch.
    reason
        Why it is plain torch; empty with a launcher.
    """

    launcher: Launcher | None
    reason: str

    @property
    def description(self) -> str:
        """One line for people."""
        if self.launcher is not None:
            return self.launcher.description
        return f"torch reference ({self.reason})"


def kernel_path(device_type: str) -> KernelPath:
    """The way for ``"cpu"``, ``"cuda"`` or another type, as chosen by the user.

    Raises
    ------
    ConfigurationError
        If the choice is unknown, or compiled kernels were demanded and can not be had.
    """
    return _path(_chosen.get() or os.environ.get(VARIABLE) or "auto", device_type)


@cache
def _path(choice: str, device_type: str) -> KernelPath:
    if choice not in CHOICES:
        raise ConfigurationError(
            VARIABLE,
            expected=" or ".join(CHOICES),
            got=repr(choice),
            fix="correct the environment variable, or unset it",
        )
    if choice == "torch":
        return KernelPath(None, "chosen by the user")
    path = _compiled(device_type)
    if path.launcher is None and choice == "native":
        raise ConfigurationError(
            "compiled kernels",
            expected=f"kernels for '{device_type}', since {VARIABLE} is 'native'",
            got=path.reason,
            fix="mend that, or choose 'auto'",
        )
    return path


def launcher_for(device: torch.device) -> Launcher | None:
    """What runs compiled kernels on this device, ``None`` for plain torch."""
    # asked several times in a step: the environment is read once for a process
    choice = _chosen.get()
    return (_path(choice, device.type) if choice else _usual(device.type)).launcher


@cache
def _usual(device_type: str) -> KernelPath:
    return kernel_path(device_type)


@contextmanager
def using(choice: str) -> Iterator[None]:
    """Choose the way for the calls within, for comparisons: one of :data:`CHOICES`."""
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)


@cache
def _compiled(device_type: str) -> KernelPath:
    try:
        if device_type == "cpu":
            return KernelPath(host_launcher(), "")
        if device_type == "cuda":
            return KernelPath(cuda_launcher(), "")
        return KernelPath(None, f"no kernels for devices of type '{device_type}'")
    except UnavailableError as error:
        LOGGER.warning("running on plain torch, which is slower: %s", error)
        return KernelPath(None, str(error))

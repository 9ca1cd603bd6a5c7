"""What a launcher is, and the check of every argument before anything is launched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from alchemi_bridge.errors import BufferAccessError, DeviceMismatchError, DtypeError
from alchemi_bridge.native import sources

#: A contiguous tensor, ``None`` for a null pointer, or a number.
Argument = torch.Tensor | int | float | None


class Launcher(ABC):
    """Runs compiled kernels on one type of device.

    Attributes
    ----------
    device_type
        ``"cpu"`` or ``"cuda"``.
    description
        For ``alchemi-bridge doctor``.
    """

    device_type: str
    description: str

    @abstractmethod
    def threads(self, count: int) -> int:
        """How many indices of a kernel run at the same time, at most."""

    @abstractmethod
    def launch(self, kernel: str, count: int, *arguments: Argument, serial: bool = False) -> None:
        """Run ``kernel`` for every index below ``count``.

        On a GPU the work is queued on the device's current stream.

        Parameters
        ----------
        kernel
            Name of an entry point.
        count
            Number of indices.
        *arguments
            Its parameters without the count. Arrays must be contiguous; those with strides of
            their own are handed over as their first element (see :func:`elements`) with the
            strides as integers.
        serial
            Whether the host shim must use one thread, because the kernel counts with atomics on
            a GPU.
        """


def elements(view: torch.Tensor) -> torch.Tensor:
    """The first element of a strided view as an array, for kernels that take strides."""
    return view.as_strided((1 if view.numel() else 0,), (1,), view.storage_offset())


def converted(
    kernel: str, arguments: Sequence[Argument], device_type: str
) -> list[int | float | None]:
    """Arguments as plain numbers and addresses, after a check against the entry point.

    Raises
    ------
    DtypeError, DeviceMismatchError, BufferAccessError
        If an array does not fit its parameter.
    TypeError
        If the number or kind of arguments does not.
    """
    parameters = sources.entry_points()[kernel]
    if len(parameters) != len(arguments):
        raise TypeError(f"{kernel} takes {len(parameters)} arguments, not {len(arguments)}")
    plain: list[int | float | None] = []
    # several launches in every step, with some 15 arguments each: the loop is kept short
    for parameter, argument in zip(parameters, arguments, strict=True):
        if isinstance(argument, torch.Tensor):
            fits = argument.dtype in parameter.dtypes and argument.is_contiguous()
            if not fits or argument.device.type != device_type:
                _refuse(kernel, parameter, argument, device_type)
            plain.append(argument.data_ptr())
        elif parameter.kind == "array":
            if argument is not None:
                raise TypeError(f"{kernel}: {parameter.name} is an array, not {argument!r}")
            plain.append(0)
        elif argument is None:
            raise TypeError(f"{kernel}: {parameter.name} is a number, not None")
        else:
            plain.append(argument if parameter.kind == "real" else int(argument))
    return plain


def _refuse(
    kernel: str, parameter: sources.Parameter, argument: torch.Tensor, device_type: str
) -> None:
    """Say why an array does not fit."""
    if parameter.kind != "array":
        raise TypeError(f"{kernel}: {parameter.name} is a number, not a tensor")
    if argument.dtype not in parameter.dtypes:
        raise _wrong_dtype(kernel, parameter, argument)
    if argument.device.type != device_type:
        raise DeviceMismatchError(
            f"{parameter.name} of kernel {kernel}",
            expected=f"memory of a {device_type} device",
            got=f"memory of {argument.device}",
            fix="move the array to the provider's device",
        )
    raise BufferAccessError(
        f"{parameter.name} of kernel {kernel}",
        expected="a contiguous array",
        got=f"strides {argument.stride()}",
        fix="hand over a contiguous array",
    )


def _wrong_dtype(kernel: str, parameter: sources.Parameter, got: torch.Tensor) -> DtypeError:
    return DtypeError(
        f"{parameter.name} of kernel {kernel}",
        expected=" or ".join(str(d).removeprefix("torch.") for d in parameter.dtypes),
        got=str(got.dtype).removeprefix("torch."),
        fix="convert the array before handing it over",
    )

"""Do the tensors of a TorchScript archive fit into the records that hold their numbers?

torch takes the size of a tensor from the pickle and its address from the record, and compares
neither with the size of the record: a tensor whose record is too short is read beyond its end,
which crashes the process or shows its memory. So the pickle is followed here step by step, without
building anything, and each tensor is compared with its record.

Source: ``torch/csrc/jit/serialization/unpickler.cpp`` and ``import_read.cpp``, torch 2.13.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Mapping
from typing import Any

from alchemi_bridge.errors import BridgeError, ModelLoadError, UntrustedModelError

_ITEM_SIZES = {
    **dict.fromkeys(("Byte", "Char", "Bool", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1),
    **dict.fromkeys(("Short", "Half", "BFloat16"), 2),
    **dict.fromkeys(("Int", "Float", "QInt32", "ComplexHalf"), 4),
    **dict.fromkeys(("Long", "Double", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
_TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_qtensor")
_OTHER = object()  # a value that is of no interest here
_VALUES = re.compile(r"(BININT|LONG|INT|BINFLOAT|FLOAT|BINUNICODE|UNICODE|STRING|BINSTRING)\w*")
_PUT = ("BINPUT", "LONG_BINPUT", "PUT")
_GET = ("BINGET", "LONG_BINGET", "GET")
_COUNTS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# what they take off the stack, beside the object below that they change
_CHANGE_ONE = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
_CHANGE_MARKED = ("APPENDS", "SETITEMS", "ADDITEMS")
_IGNORED = ("PROTO", "FRAME", "STOP")


class _Storage:
    def __init__(self, n_items: int) -> None:
        self.n_items = n_items


def check_storages(record: str, data: bytes, sizes: Mapping[str, int]) -> None:
    """Compare every tensor of a pickle with the record that holds its numbers.

    Parameters
    ----------
    record
        How messages name the pickle.
    data
        The pickle, checked by :func:`~alchemi_bridge.model.script.check_pickle`.
    sizes
        Bytes of each tensor record, by the name that the pickle gives it (``"0"``, ``"1"``, ...).

    Raises
    ------
    ModelLoadError
        If a tensor's record is missing or too short.
    UntrustedModelError
        If a tensor reaches beyond its storage, or the pickle is none that torch writes.
    """
    try:
        _Reader(record, sizes).run(data)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _strange(record, f"a pickle that can not be followed ({error})") from error


class _Reader:
    """Follows a pickle with a stack and a memo, as any unpickler does."""

    def __init__(self, record: str, sizes: Mapping[str, int]) -> None:
        self.record, self.sizes = record, sizes
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> None:
        for opcode, argument, _ in pickletools.genops(data):
            self.step(opcode.name, argument)

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _IGNORED:
            return
        if name in _PUT:
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in _GET:
            stack.append(self.memo[int(argument)])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "GLOBAL" or _VALUES.fullmatch(name):
            stack.append(argument)
        elif name in ("TUPLE", "LIST"):
            stack.append(tuple(self.marked()))
        elif name in _COUNTS:
            stack.append(tuple(self.take(_COUNTS[name])))
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            stack.append(() if name == "EMPTY_TUPLE" else _OTHER)
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append(_OTHER)
        elif name in _CHANGE_ONE:
            self.take(_CHANGE_ONE[name])
        elif name in _CHANGE_MARKED:
            self.marked()
        elif name == "DICT":
            self.marked()
            stack.append(_OTHER)
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self.take(2)
            if function in _TENSORS:
                self.check_tensor(arguments)
            stack.append(_OTHER)
        elif name == "BINPERSID":
            stack.append(self.storage(stack.pop()))
        else:
            raise ValueError(f"opcode {name}")

    def take(self, count: int) -> list[Any]:
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("too few values")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def marked(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def storage(self, reference: Any) -> _Storage:
        kind, type_name, key, _, n_items = reference
        found = re.fullmatch(r"torch (\w+)Storage", type_name)
        if kind != "storage" or found is None or not isinstance(n_items, int) or n_items < 0:
            raise ValueError(f"a reference {reference!r}")
        needed = n_items * _ITEM_SIZES[found.group(1)]
        if self.sizes.get(key, -1) < needed:
            there = f"{self.sizes[key]} bytes" if key in self.sizes else "no such record"
            raise ModelLoadError(
                f"{self.record}, tensor data {key!r}",
                expected=f"{needed} bytes, for {n_items} numbers of type {found.group(1)}",
                got=there,
                fix="copy or download the file again; if it is no better, export the model again",
            )
        return _Storage(n_items)

    def check_tensor(self, arguments: tuple) -> None:
        storage, offset, size, strides = arguments[:4]
        if len(size) != len(strides) or min((offset, *size, *strides)) < 0:
            raise ValueError("a tensor with negative extents")
        last = offset + sum((n - 1) * s for n, s in zip(size, strides, strict=True))
        if 0 not in size and last >= storage.n_items:
            raise _strange(
                self.record,
                f"a tensor of size {size} and strides {strides} from item {offset} of "
                f"{storage.n_items}",
            )


def _strange(record: str, got: str) -> BridgeError:
    return UntrustedModelError(
        record,
        expected="tensors that lie within their data, as torch.jit.save writes them",
        got=got,
        fix="do not load this file; get it from its author again, or export the model again",
    )

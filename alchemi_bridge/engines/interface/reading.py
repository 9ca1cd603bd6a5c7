"""Structures and texts of a C caller, checked before anything in them is believed."""

from __future__ import annotations

import ctypes
from typing import Any

from alchemi_bridge.errors import ConfigurationError, ProtocolError

#: All structures hold pointers, so that the size of any version of one is a multiple of this. A
#: size that is not would cut a pointer in two.
WORD = 8


class VersionError(Exception):
    """Caller and library do not speak the same version."""


def structure(pointer: Any, kind: type[ctypes.Structure], name: str) -> Any:
    """The caller's structure; one that is shorter than ours is filled up with zeros.

    Raises
    ------
    ProtocolError
        For a null pointer.
    VersionError
        For a size that no version has that is known here.
    """
    if not pointer:
        raise ProtocolError(
            name, expected="a structure", got="NULL", fix="pass the address of a structure"
        )
    size = int(pointer.contents.struct_size)
    if size == ctypes.sizeof(kind):
        return pointer.contents
    if not WORD <= size <= ctypes.sizeof(kind) or size % WORD:
        raise VersionError(
            f"struct_size of {name}: expected {ctypes.sizeof(kind)}, got {size}; set it to "
            "sizeof(the structure), and build the engine with the header of this version"
        )
    filled = kind()
    ctypes.memmove(ctypes.addressof(filled), ctypes.addressof(pointer.contents), size)
    return filled


def count_of(items: Any, number: int, name: str) -> int:
    """The length of a caller's array, whose address must be there unless it is zero.

    Raises
    ------
    ProtocolError
        For a negative number, or a null pointer to something.
    """
    if number < 0 or (number > 0 and not items):
        raise ProtocolError(
            name,
            expected="a number of zero or more, and the address of that many",
            got=f"{number} at {'an address' if items else 'NULL'}",
            fix="zero the structure before it is filled in",
        )
    return number


def text(value: bytes | None, name: str, default: str | None = None) -> str:
    """A caller's text.

    Raises
    ------
    ConfigurationError
        For ``NULL`` without a default, and for what is no UTF-8.
    """
    if value is None:
        if default is not None:
            return default
        raise ConfigurationError(name, expected="a text", got="NULL", fix="pass a string")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            name, expected="text in UTF-8", got=repr(value), fix="convert the string"
        ) from error


def to_c(said: str) -> bytes:
    """A text for the caller; what can not be encoded (bytes of a file name) is escaped."""
    return said.encode(errors="backslashreplace")

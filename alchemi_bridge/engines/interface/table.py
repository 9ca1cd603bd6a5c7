"""The function table: C calls in, codes and messages out, no exception across."""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface.description import describe
from alchemi_bridge.engines.interface.options import Host
from alchemi_bridge.engines.interface.reading import (
    VersionError,
    count_of,
    structure,
    text,
    to_c,
)
from alchemi_bridge.engines.interface.session import Log, Session
from alchemi_bridge.engines.interface.setups import filled
from alchemi_bridge.engines.setup_file import read_setup
from alchemi_bridge.errors import BridgeError, ConfigurationError, ProtocolError
from alchemi_bridge.units import Units

LOGGER = logging.getLogger(__name__)

_sessions: dict[int, Session] = {}
_facts: dict[int, structs.Requirements] = {}
_setups: dict[int, structs.Setup] = {}
_numbers = itertools.count(1)

#: What the last call that failed had to say, by thread. Not a ``threading.local``: in a thread that
#: Python did not start that is gone when a call returns, before anybody can ask for the message.
_messages: dict[int, Any] = {}


def _remember(said: str) -> None:
    _messages[threading.get_ident()] = ctypes.create_string_buffer(to_c(said))


def _said(error: BaseException) -> str:
    # what is raised while an error is handled would cross into C, with any number for a code
    try:
        return str(error)
    except Exception:
        return "an error that can not say what it is"


def _guarded(work: Callable[..., None]) -> Callable[..., int]:
    """A function that returns a code, whatever happens."""

    def call(*arguments: Any) -> int:
        try:
            work(*arguments)
        except BridgeError as error:
            _remember(_said(error))
            fitting = (code for kind, code in structs.CODES if isinstance(error, kind))
            return next(fitting, structs.INTERNAL)
        except VersionError as error:
            _remember(_said(error))
            return structs.VERSION_MISMATCH
        # not even KeyboardInterrupt or SystemExit may cross into C
        except BaseException as error:
            _remember(f"{type(error).__name__}: {_said(error)}")
            LOGGER.debug("error behind the C interface", exc_info=error)
            return structs.INTERNAL
        return structs.OK

    return call


def _session(handle: int | None) -> Session:
    found = _sessions.get(handle or 0)
    if found is None:
        raise ProtocolError(
            "provider",
            expected="one that was opened and not closed",
            got="NULL" if not handle else f"{handle:#x}",
            fix="call open first, and check what it returns",
        )
    return found


def _open(options: Any, provider: Any) -> None:
    if not provider:
        raise ProtocolError(
            "provider", expected="where to put it", got="NULL", fix="pass an address"
        )
    provider[0] = None
    given = structure(options, structs.Options, "options")
    if given.version != structs.VERSION:
        raise VersionError(
            f"interface: expected version {structs.VERSION}, got {given.version}; build the engine "
            "with the header of this version"
        )
    if not given.model:
        raise ConfigurationError(
            "model", expected="the path of a model file", got="NULL", fix="name the file"
        )
    units = Units(
        text(given.length_unit, "length_unit", "angstrom"),
        text(given.energy_unit, "energy_unit", "eV"),
    )
    host = Host(
        units,
        given.local_rank if given.local_rank >= 0 else None,
        given.local_size if given.local_size > 0 else None,
    )
    session = Session(os.fsdecode(given.model), _keywords(given), host, _log_of(given))
    number = next(_numbers)
    _sessions[number] = session
    provider[0] = number


def _keywords(given: Any) -> dict[str, str]:
    number = count_of(given.keywords, given.n_keywords, "keywords")
    texts = [text(given.keywords[k], f"keywords[{k}]") for k in range(2 * number)]
    names = texts[::2]
    twice = next((name for k, name in enumerate(names) if name in names[:k]), None)
    if twice is not None:
        raise ConfigurationError(
            f"keyword '{twice}'", expected="each keyword once", got="it twice", fix="drop one"
        )
    return dict(zip(names, texts[1::2], strict=True))


def _log_of(given: Any) -> Log | None:
    if not given.log:
        return None
    # the function pointer outlives the structure that it came in
    call = structs.LOG(ctypes.cast(given.log, ctypes.c_void_p).value or 0)
    user = given.log_user

    def log(level: int, said: str) -> None:
        call(user, level, to_c(said))

    return log


def _requirements(handle: int | None, out: Any) -> None:
    session = _session(handle)
    structure(out, structs.Requirements, "requirements")
    size = int(out.contents.struct_size)
    # told once: the pointers in it are the caller's until the provider is closed
    number = handle or 0
    if number not in _facts:
        _facts[number] = _facts_of(session)
    filled = _facts[number]
    filled.struct_size = size
    ctypes.memmove(ctypes.addressof(out.contents), ctypes.addressof(filled), size)


def _facts_of(session: Session) -> structs.Requirements:
    """What a provider needs. The structure keeps what it points to."""
    provider, device = session.provider, session.device
    needs = provider.requirements
    types = (ctypes.c_int32 * len(needs.atomic_types))(*sorted(needs.atomic_types))
    names = (ctypes.c_char_p * len(needs.inputs))(*(n.encode() for n in needs.inputs))
    units = (ctypes.c_char_p * len(needs.inputs))(*(u.encode() for u in needs.inputs.values()))
    return structs.Requirements(
        memory=structs.CUDA if device.type == "cuda" else structs.HOST,
        device=device.index or 0,
        dtype=structs.NUMBER_OF_DTYPE[needs.dtype],
        pair_range=needs.pair_range,
        halo_range=needs.halo_range,
        energies=int(needs.energies),
        virials=int(provider.route == "leaves" and provider.plan.stress is None),
        n_types=len(types),
        n_inputs=len(names),
        types=types,
        inputs=names,
        input_units=units,
        description=to_c(describe(provider.loaded)),
        direct_forces=int(provider.plan.force is not None),
        direct_stress=int(provider.plan.stress is not None),
    )


def _set_atoms(handle: int | None, atoms: Any) -> None:
    _session(handle).set_atoms(structure(atoms, structs.Atoms, "atoms"))


def _set_pairs(handle: int | None, pairs: Any) -> None:
    _session(handle).set_pairs(structure(pairs, structs.Pairs, "pairs"))


def _compute(handle: int | None, step: Any, out: Any) -> None:
    _session(handle).compute(
        structure(step, structs.Step, "step"), structure(out, structs.Buffers, "buffers")
    )


def _finish(handle: int | None) -> None:
    _session(handle).finish()


def _close(handle: int | None) -> None:
    _sessions.pop(handle or 0, None)
    _facts.pop(handle or 0, None)


def _read_setup(path: bytes | None, contents: bytes | None, n_atoms: int, out: Any) -> None:
    structure(out, structs.Setup, "setup")
    size = int(out.contents.struct_size)
    where = Path(os.fsdecode(path)) if path else Path()
    found = filled(read_setup(where, n_atoms, None if contents is None else text(contents, "text")))
    found.struct_size = size
    ctypes.memmove(ctypes.addressof(out.contents), ctypes.addressof(found), size)
    # what it points to lives as long as it does; the caller's has an array of its own in it
    _setups[ctypes.cast(found.atoms, ctypes.c_void_p).value or 0] = found


def _release_setup(out: Any) -> None:
    if out:
        _setups.pop(ctypes.cast(out.contents.atoms, ctypes.c_void_p).value or 0, None)


def _message() -> int:
    if threading.get_ident() not in _messages:
        _remember("")
    return ctypes.addressof(_messages[threading.get_ident()])


@cache
def functions() -> structs.Functions:
    """The table. It lives as long as the process."""
    return structs.Functions(
        struct_size=ctypes.sizeof(structs.Functions),
        version=structs.VERSION,
        open=structs.OPEN(_guarded(_open)),
        requirements=structs.REQUIREMENTS(_guarded(_requirements)),
        set_atoms=structs.SET_ATOMS(_guarded(_set_atoms)),
        set_pairs=structs.SET_PAIRS(_guarded(_set_pairs)),
        compute=structs.COMPUTE(_guarded(_compute)),
        close=structs.CLOSE(_close),
        message=structs.MESSAGE(_message),
        read_setup=structs.READ_SETUP(_guarded(_read_setup)),
        release_setup=structs.RELEASE_SETUP(_release_setup),
        finish=structs.FINISH(_guarded(_finish)),
    )


def address() -> int:
    """Address of the ``ab_functions`` of this process, for engines in C that Python hosts."""
    return ctypes.addressof(functions())


def started_by_shim() -> int:
    """What the shim library calls in an interpreter that it started: threads, then the table."""
    if not os.environ.get("OMP_NUM_THREADS"):
        # ranks share a node's cores, and a foreign program did not ask for more than its own thread
        torch.set_num_threads(1)
    if not getattr(sys, "argv", None):
        sys.argv = [""]  # some libraries expect it
    return address()

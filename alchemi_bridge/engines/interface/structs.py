"""The structures of ``plugins/include/alchemi_bridge.h``, field by field; there is the meaning."""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_void_p,
)

import torch

from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    InputError,
    ModelError,
    PairListError,
    ProtocolError,
    StalePairsError,
    UnitError,
)

#: ``ALCHEMI_BRIDGE_VERSION``.
VERSION = 1

#: ``AB_OK`` and the codes of errors that are no :class:`BridgeError`.
OK, VERSION_MISMATCH, INTERNAL = 0, 7, 8

#: Codes of errors; the first class that fits counts.
CODES: tuple[tuple[type[BridgeError], int], ...] = (
    (StalePairsError, 3),
    (PairListError, 2),
    (ConfigurationError, 5),
    (UnitError, 5),
    (ProtocolError, 6),
    (ModelError, 4),
    (InputError, 1),
)

#: ``ab_dtype`` to torch and back.
DTYPES = {1: torch.float32, 2: torch.float64, 3: torch.int32, 4: torch.int64}
NUMBER_OF_DTYPE = {dtype: number for number, dtype in DTYPES.items()}

#: ``ab_memory``.
HOST, CUDA = 0, 1

#: ``ab_level``.
INFO, WARNING = 0, 1

#: ``ab_pairs_kind``.
SEARCH, HALF, FULL, GHOSTS, MATRIX, CLUSTERS = range(6)


class Array(ctypes.Structure):
    """``ab_array``."""

    _fields_ = [
        ("data", c_void_p),
        ("extent", c_int64 * 3),
        ("stride", c_int64 * 3),
        ("dtype", c_int32),
        ("ndim", c_int32),
        ("memory", c_int32),
        ("device", c_int32),
    ]


#: ``ab_log``.
LOG = CFUNCTYPE(None, c_void_p, c_int32, c_char_p)


class Options(ctypes.Structure):
    """``ab_options``."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("version", c_uint32),
        ("model", c_char_p),
        ("length_unit", c_char_p),
        ("energy_unit", c_char_p),
        ("keywords", POINTER(c_char_p)),
        ("n_keywords", c_int32),
        ("local_rank", c_int32),
        ("local_size", c_int32),
        ("reserved", c_int32),
        ("log", LOG),
        ("log_user", c_void_p),
    ]


class Requirements(ctypes.Structure):
    """``ab_requirements``."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("memory", c_int32),
        ("device", c_int32),
        ("dtype", c_int32),
        ("pair_range", c_double),
        ("halo_range", c_double),
        ("energies", c_int32),
        ("virials", c_int32),
        ("n_types", c_int32),
        ("n_inputs", c_int32),
        ("types", POINTER(c_int32)),
        ("inputs", POINTER(c_char_p)),
        ("input_units", POINTER(c_char_p)),
        ("description", c_char_p),
        ("direct_forces", c_int32),
        ("direct_stress", c_int32),
    ]


class Input(ctypes.Structure):
    """``ab_input``."""

    _fields_ = [("name", c_char_p), ("unit", c_char_p), ("values", Array)]


class Atoms(ctypes.Structure):
    """``ab_atoms``."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("n_inputs", c_int32),
        ("types", Array),
        ("subset", Array),
        ("selected", Array),
        ("ids", Array),
        ("inputs", POINTER(Input)),
    ]


class Pairs(ctypes.Structure):
    """``ab_pairs``."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("kind", c_int32),
        ("cell", c_double * 9),
        ("periodic", c_int32 * 3),
        ("full", c_int32),
        ("reach", c_double),
        ("stream", c_size_t),
        ("ready", c_size_t),
        ("first", Array),
        ("second", Array),
        ("shifts", Array),
        ("n_local", c_int64),
        ("newton", c_int32),
        ("index_mask", c_uint32),
        ("owners", Array),
        ("positions", Array),
        ("rows", Array),
        ("counts", Array),
        ("starts", Array),
        ("neighbors", Array),
        ("row_pointers", c_void_p),
        ("margin", Array),
        ("fill_value", c_int64),
        ("sci", Array),
        ("cj", Array),
        ("imask", Array),
        ("excl_ind", Array),
        ("excl", Array),
        ("atom_index", Array),
        ("imask_outer", Array),
        ("rlist", c_double),
        ("fresh", c_int32),
        ("non_local", c_int32),
        ("honour_exclusions", c_int32),
        ("cluster_size", c_int32),
        ("clusters_per_super", c_int32),
        ("split", c_int32),
        ("next", c_void_p),  # another of these
    ]


class Step(ctypes.Structure):
    """``ab_step``."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("n_inputs", c_int32),
        ("positions", Array),
        ("cell", c_double * 9),
        ("periodic", c_int32 * 3),
        ("reserved", c_int32),
        ("inputs", POINTER(Input)),
        ("stream", c_size_t),
        ("ready", c_size_t),
        ("done", c_size_t),
    ]


class Buffers(ctypes.Structure):
    """``ab_buffers``."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_int32),
        ("forces", Array),
        ("energy", Array),
        ("virial", Array),
        ("energies", Array),
        ("virials", Array),
    ]


class Setup(ctypes.Structure):
    """``ab_setup``."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("n_keywords", c_int32),
        ("model", c_char_p),
        ("keywords", POINTER(c_char_p)),
        ("energies", c_char_p),
        ("atoms", POINTER(c_int64)),
        ("types", POINTER(c_int32)),
        ("n_atoms", c_int64),
        ("every", c_int64),
        ("skin", c_double),
        ("periodic", c_int32 * 3),
        ("unchecked", c_int32),
    ]


#: Types of the functions. A provider is an address that only we know the meaning of.
OPEN = CFUNCTYPE(c_int32, POINTER(Options), POINTER(c_void_p))
REQUIREMENTS = CFUNCTYPE(c_int32, c_void_p, POINTER(Requirements))
SET_ATOMS = CFUNCTYPE(c_int32, c_void_p, POINTER(Atoms))
SET_PAIRS = CFUNCTYPE(c_int32, c_void_p, POINTER(Pairs))
COMPUTE = CFUNCTYPE(c_int32, c_void_p, POINTER(Step), POINTER(Buffers))
CLOSE = CFUNCTYPE(None, c_void_p)
#: Returns ``const char*``: as an address, since ctypes takes no bytes from a callback.
MESSAGE = CFUNCTYPE(c_void_p)
READ_SETUP = CFUNCTYPE(c_int32, c_char_p, c_char_p, c_int64, POINTER(Setup))
RELEASE_SETUP = CFUNCTYPE(None, POINTER(Setup))
FINISH = CFUNCTYPE(c_int32, c_void_p)


class Functions(ctypes.Structure):
    """``ab_functions``."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("version", c_uint32),
        ("open", OPEN),
        ("requirements", REQUIREMENTS),
        ("set_atoms", SET_ATOMS),
        ("set_pairs", SET_PAIRS),
        ("compute", COMPUTE),
        ("close", CLOSE),
        ("message", MESSAGE),
        ("read_setup", READ_SETUP),
        ("release_setup", RELEASE_SETUP),
        ("finish", FINISH),
    ]


#: All structures by their name in the header.
STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "ab_array": Array,
    "ab_options": Options,
    "ab_requirements": Requirements,
    "ab_input": Input,
    "ab_atoms": Atoms,
    "ab_pairs": Pairs,
    "ab_step": Step,
    "ab_buffers": Buffers,
    "ab_setup": Setup,
    "ab_functions": Functions,
}

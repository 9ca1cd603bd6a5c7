"""GROMACS, played by ctypes: its GPU lists and buffers over NumPy or torch memory.

The provider of ``plugins/gromacs`` is compiled with stand-ins for GROMACS' types
(``gromacs_stand_ins``), whose members were read from the sources of GROMACS 2026, and driven by
``gromacs_driver.cpp`` in the order of ``do_force``.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from ctypes import c_char_p, c_double, c_float, c_int, c_void_p
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from c_callers import Failure
from cluster_parts import Golden

from alchemi_bridge import compiling
from alchemi_bridge.engines import plugins

HERE = Path(__file__).resolve().parent

FLAGS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-pedantic", "-Werror")

SINGLE = [
    "argon216",
    "argon216-triclinic",
    "argon27-small-box",
    "water648",
    "water648-all-excluded",
]
RANKS = [f"argon216-dd2-rank{rank}-{kind}" for rank in (0, 1) for kind in ("local", "nonlocal")]

#: Å in a nm.
NM = 10.0

#: kJ/mol in an eV, from ASE's constants, which metatomic does not use.
EV = ase.units.mol / ase.units.kJ

#: Energies are float64; ASE and metatomic differ in the last digits of eV.
ENERGY = 1e-7

#: Forces and virial are GROMACS' float32: of the largest.
SINGLE_PRECISION = 1e-6

#: ``PbcType``
XYZ, NO, XY, SCREW = range(4)

#: ``HaloShell``
NONE, EIGHTH, FULL = range(3)


class Options(ctypes.Structure):
    _fields_ = (
        ("library", c_char_p),
        ("model", c_char_p),
        ("keywords", ctypes.POINTER(c_char_p)),
        ("numKeywords", c_int),
        ("numAtoms", c_int),
        ("atomicNumbers", c_void_p),
        ("modelAtoms", c_void_p),
        ("numModelAtoms", c_int),
        ("pairlistBuffer", c_float),
        ("stream", c_void_p),
    )


class List(ctypes.Structure):
    _fields_ = (
        *((name, c_int) for name in ("numSci", "numPackedJClusters", "haveFreshList", "given")),
        *((name, c_void_p) for name in ("sci", "cjPacked", "imask", "excl")),
    )


class Search(ctypes.Structure):
    _fields_ = (
        ("lists", List * 3),
        ("atomIndices", c_void_p),
        ("xq", c_void_p),
        ("atomIndicesSize", c_int),
        ("rlistOuter", c_float),
        *((name, c_int) for name in ("useDynamicPruning", "pbcType", "haloShell", "haloPairs")),
        ("haloRange", c_float),
        ("box", c_float * 9),
    )


class Step(ctypes.Structure):
    _fields_ = (
        ("x", c_void_p),
        ("forces", c_void_p),
        *((n, c_int) for n in ("pbcType", "computeForces", "computeEnergy", "computeVirial")),
        ("box", c_float * 9),
    )


def home_atoms(local: Golden) -> int:
    """Home atoms are those in the super-clusters of the local list; they come first."""
    slots = local.arrays["atom_index"].reshape(-1, 64)[np.unique(local.arrays["sci"][:, 0])]
    home = np.unique(slots[slots >= 0])
    assert home.tolist() == list(range(len(home)))
    return len(home)


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def driver(cuda: bool = False) -> ctypes.CDLL:
    """Provider and driver in one library, compiled or taken from the cache."""
    home, stand_ins = plugins.folder(), HERE / "gromacs_stand_ins"
    files = [*sorted((home / "gromacs").glob("*.cpp")), HERE / "gromacs_driver.cpp"]
    includes = [home / "include", home / "gromacs", stand_ins]
    headers = sorted(header for folder in includes for header in folder.rglob("*.h"))
    flags = [*FLAGS, f"-DGMX_GPU_CUDA={int(cuda)}"]
    compiler = compiling.require_compiler()
    texts = [path.read_text(encoding="utf-8") for path in (*files, *headers)]
    key = compiling.key_of([*texts, *flags, compiling.version_of(compiler)])
    made = compiling.cache_folder() / f"gromacs-driver-{key}" / "driver.so"
    if not made.is_file():
        search = [f"-I{folder}" for folder in includes]
        compiling.build([compiler, *flags, *search, *map(str, files), "-ldl"], made)
    # functions of a CDLL are called without the interpreter's lock, as the library wants it
    library = ctypes.CDLL(str(made))
    for name in ("driver_message", "driver_warnings", "driver_trace"):
        getattr(library, name).restype = c_char_p
    return library


def packed(arrays: Mapping[str, np.ndarray], masks: np.ndarray | None = None) -> np.ndarray:
    """(G, 8) int32: ``nbnxn_cj_packed_t``."""
    groups = np.zeros((len(arrays["cj"]), 8), dtype=np.int32)
    groups[:, :4] = arrays["cj"]
    groups[:, 4::2] = (arrays["imask"] if masks is None else masks).view(np.int32)
    groups[:, 5::2] = arrays["excl_ind"]
    return groups


class Gromacs:
    """One rank of a run.

    Parameters
    ----------
    model
        Path of the file.
    n_system
        Number of atoms of the system.
    numbers
        Atomic numbers by global index; argon if not given.
    model_atoms
        Global indices of what the model sees; empty: all.
    buffer
        Of the pair list, nm.
    library
        That of the bridge, ``None`` for the environment's own.
    device
        ``cpu``, or ``cuda`` for lists and buffers in device memory.
    keywords
        Of the C interface.
    """

    def __init__(
        self,
        model: Path | str,
        n_system: int,
        *,
        numbers: np.ndarray | None = None,
        model_atoms: Sequence[int] = (),
        buffer: float = 0.1,
        library: str | None = None,
        device: str = "cpu",
        keywords: Mapping[str, str] | None = None,
    ) -> None:
        self.device = device
        if device != "cpu":
            torch.zeros(1, device=device)  # there is a context, in which events can be made
        self.library = driver(cuda=device != "cpu")
        self.handle = c_void_p()
        self.library.driver_trace()
        words = [word.encode() for item in (keywords or {}).items() for word in item]
        types = np.full(n_system, 18) if numbers is None else numbers
        types, seen = (np.ascontiguousarray(a, dtype=np.intc) for a in (types, model_atoms))
        stream = 0 if device == "cpu" else torch.cuda.current_stream().cuda_stream
        options = Options(
            library=os.fsencode(plugins.shim() if library is None else library),
            model=os.fsencode(model),
            keywords=(c_char_p * len(words))(*words),
            numKeywords=len(words) // 2,
            numAtoms=len(types),
            atomicNumbers=types.ctypes.data,
            modelAtoms=seen.ctypes.data,
            numModelAtoms=len(seen),
            pairlistBuffer=buffer,
            stream=stream,
        )
        self._check(self.library.driver_open(ctypes.byref(options), ctypes.byref(self.handle)))

    def __enter__(self) -> Gromacs:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.driver_close(self.handle)

    def _check(self, code: int) -> None:
        if code:
            raise Failure(code, self.library.driver_message().decode())

    def _put(self, values: np.ndarray) -> Any:
        """The values in the memory of the device, which is kept as long as this rank."""
        values = np.ascontiguousarray(values)
        if self.device != "cpu":
            signed = values.view(np.int32) if values.dtype == np.uint32 else values
            return torch.from_numpy(signed).to(self.device)
        return values

    @staticmethod
    def _address(values: Any) -> int:
        return int(values.ctypes.data if isinstance(values, np.ndarray) else values.data_ptr())

    def needs(self) -> tuple[float, float, int, bool]:
        """Range of lists, range of the halo, its shell, and whether its pairs are needed."""
        reach, halo, shell, pairs = c_double(), c_double(), c_int(), c_int()
        found = [ctypes.byref(value) for value in (reach, halo, shell, pairs)]
        self.library.driver_needs(self.handle, *found)
        return reach.value, halo.value, shell.value, bool(pairs.value)

    def warnings(self) -> str:
        """What was said since the start."""
        return str(self.library.driver_warnings(self.handle).decode())

    def trace(self) -> list[str]:
        """What was queued since the last call."""
        return list(self.library.driver_trace().decode().splitlines())

    def atoms(self, n_atoms: int, n_home: int | None = None, names: Any = ()) -> None:
        """A partitioning."""
        indices = np.ascontiguousarray(names, dtype=np.intc)
        home = n_atoms if n_home is None else n_home
        self._check(
            self.library.driver_atoms(
                self.handle, home, n_atoms, c_void_p(indices.ctypes.data), len(indices)
            )
        )

    def search(
        self,
        *files: Golden,
        masks: Sequence[np.ndarray] = (),
        outer: Sequence[np.ndarray] = (),
        fresh: bool = True,
        pruning: bool = False,
        halo: tuple[int, float, bool] = (NONE, 0.0, False),
        **changes: Any,
    ) -> None:
        """Lists of one rank: local, non-local, within the halo.

        Parameters
        ----------
        masks, outer
            Masks of the groups, and those at the outer radius, of each list; by default those of
            the search, and memory that was never written.
        fresh, pruning
            ``haveFreshList``, ``useDynamicPruning``.
        halo
            Shell, range and pairs.
        **changes
            Fields of :class:`Search`, and of every list.
        """
        first = files[0].arrays
        xq = np.full((len(first["x"]), 4), 77.0, dtype=np.float32)
        xq[:, :3] = first["x"]
        kept = [self._put(first["atom_index"]), self._put(xq)]
        found = Search(
            atomIndices=self._address(kept[0]),
            xq=self._address(kept[1]),
            atomIndicesSize=len(first["atom_index"]),
            rlistOuter=files[0].rlist,
            useDynamicPruning=pruning,
            pbcType=changes.pop("pbcType", XYZ),
            haloShell=halo[0],
            haloRange=halo[1],
            haloPairs=halo[2],
            box=(c_float * 9)(*np.ravel(files[0].box)),
        )
        for k, file in enumerate(files):
            arrays = file.arrays
            groups = packed(arrays, masks[k] if masks else None)
            at_outer = outer[k] if outer else np.full(arrays["imask"].shape, 0xA5A5A5A5, np.uint32)
            parts = [self._put(a) for a in (arrays["sci"], groups, at_outer, arrays["excl"])]
            kept += parts
            found.lists[k] = List(
                len(arrays["sci"]), len(groups), fresh, 1, *map(self._address, parts)
            )
        for name, value in changes.items():
            owners = [found] if hasattr(found, name) else found.lists[: len(files)]
            for owner in owners:
                setattr(owner, name, value)
        self.lists = kept
        self._check(self.library.driver_search(self.handle, ctypes.byref(found)))

    def step(
        self,
        positions: np.ndarray,
        box: np.ndarray,
        forces: np.ndarray | None = None,
        *,
        energy: bool = True,
        virial: bool = True,
        pbc: int = XYZ,
    ) -> None:
        """A step; forces are added to float32 values, in place."""
        x = self._put(positions.astype(np.float32))
        into = None if forces is None else self._put(forces)
        given = Step(
            x=self._address(x),
            forces=0 if into is None else self._address(into),
            pbcType=pbc,
            computeForces=forces is not None,
            computeEnergy=energy,
            computeVirial=virial,
            box=(c_float * 9)(*np.ravel(box)),
        )
        self._check(self.library.driver_launch(self.handle, ctypes.byref(given)))
        if isinstance(into, torch.Tensor) and forces is not None:
            forces[:] = into.cpu().numpy()

    def collect(self) -> tuple[float, np.ndarray]:
        """Energy, kJ/mol, and GROMACS' virial, kJ/mol."""
        found = (c_double * 10)(*[np.nan] * 10)
        self._check(self.library.driver_collect(self.handle, found))
        return found[0], np.array(found[1:]).reshape(3, 3)

    def finish(self) -> None:
        """The end of the run."""
        self._check(self.library.driver_finish(self.handle))

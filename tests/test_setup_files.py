"""Setup files: what they say, and what is said about those that can not be understood."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from alchemi_bridge.engines.setup_file import Setup, read_setup
from alchemi_bridge.errors import BridgeError

N = 6

TOPOLOGY = """
[ defaults ]
1 2 yes 0.5 0.5   ; comb-rule and all
[ atomtypes ]
; every form that GROMACS reads: with bonded type and number, with either, with neither
opls_116 OW 8 15.9994 -0.82 A 3.1e-1 6.5e-1
HW       1   1.008   0.41 A 0.0 0.0
opls_99  CT  12.011  0.0  A 3.5e-1 2.7e-1
XX       30.0  0.0  A 0.3 0.1
Ar  18  39.948  0.0 V 0.3 0.9
[ moleculetype ]
SOL 2
[ atoms ]
1 opls_116 1 SOL OW  1 -0.82 15.9994
2 HW       1 SOL HW1 1  0.41
3 HW       1 SOL HW2 1  0.41
[ settles ]
1 1 0.1 0.16
[ moleculetype ]
AR 1
[ atoms ]
1 Ar 1 AR AR 1 0.0 39.948
[ moleculetype ]
ODD 1
[ atoms ]
1 LAST 1 ODD X 1
[ system ]
water and argon
[ molecules ]
AR 1
SOL 1
AR 2
"""


@pytest.fixture
def setup(tmp_path: Path) -> Callable[..., Setup]:
    """Reads a file with these lines."""

    def read(*lines: str, n_atoms: int = N, species: str = "species Ar") -> Setup:
        path = tmp_path / "bridge.dat"
        path.write_text("\n".join(["model argon.pt", species, *lines]))
        return read_setup(path, n_atoms)

    return read


def refused(*parts: str):
    """An error in these words, in the order in which they come."""
    return pytest.raises(BridgeError, match="(?s)" + ".*".join(parts))


def test_what_a_file_says(setup: Callable[..., Setup], tmp_path: Path) -> None:
    found = setup(
        "# a comment",
        "atoms 5,1-2 # and another",
        "energies 'my energies.dat'",
        "every 10",
        "skin 0.2 nm",
        "periodic xy",
        "device cpu",
        "variant/energy pbe",
        "extensions lib",
    )
    assert found.model == tmp_path / "argon.pt"
    assert found.energies == tmp_path / "my energies.dat"
    assert (found.every, found.skin, found.periodic) == (10, 0.2, (True, True, False))
    assert found.keywords == {
        "device": "cpu",
        "variant/energy": "pbe",
        "extensions": str(tmp_path / "lib"),
    }
    assert found.atoms.tolist() == [0, 1, 4]
    assert found.types.tolist() == [18, 18, 18]
    assert (found.atoms.dtype, found.types.dtype) == (np.int64, np.int32)


def test_what_is_not_said(setup: Callable[..., Setup], tmp_path: Path) -> None:
    found = setup()
    assert found.atoms.tolist() == list(range(N))
    assert found.energies == tmp_path / "bridge.energies"
    assert (found.every, found.periodic, found.keywords) == (1, None, {})
    assert found.skin == pytest.approx(0.1)
    assert setup("energies none").energies is None
    assert setup("periodic off").periodic == (False, False, False)
    assert setup("periodic on").periodic == (True, True, True)
    assert not setup("periodic xy").unchecked
    assert setup("periodic xy unchecked").unchecked


def test_elements_are_in_the_order_of_the_atoms(
    setup: Callable[..., Setup], tmp_path: Path
) -> None:
    found = setup("atoms 5,1-3", species="species Xe Ar Kr Ne")
    assert found.atoms.tolist() == [0, 1, 2, 4]
    assert found.types.tolist() == [18, 36, 10, 54]
    (tmp_path / "index.ndx").write_text("[ Mixed ]\n4 2\n1\n")
    found = setup("group index.ndx Mixed", species="species Xe Ar Kr")
    assert (found.atoms.tolist(), found.types.tolist()) == ([0, 1, 3], [36, 18, 54])
    write(tmp_path / "all.xyz", ATOMS)
    found = setup("atoms 5,2", species="structure all.xyz")
    assert (found.atoms.tolist(), found.types.tolist()) == ([1, 4], ATOMS.numbers[[1, 4]].tolist())
    (tmp_path / "all.top").write_text(TOPOLOGY)
    assert setup("atoms 3,2,1", species="topology all.top").types.tolist() == [18, 8, 1]


def test_words_and_comments(setup: Callable[..., Setup], tmp_path: Path) -> None:
    found = setup("energies a#b.dat # a comment", "variant '#1 # x' # 'more", "  # nothing else")
    assert found.energies == tmp_path / "a#b.dat"
    assert found.keywords == {"variant": "#1 # x"}


def test_marks_and_encodings(tmp_path: Path) -> None:
    path = tmp_path / "bridge.dat"
    path.write_text("model Modèle.pt\r\nspecies Ar\r\n", encoding="utf-8-sig")
    assert read_setup(path, 1).model == tmp_path / "Modèle.pt"
    path.write_text("model Modèle.pt\nspecies Ar\n", encoding="latin-1")
    with refused("setup file", "UTF-8", "convert the file"):
        read_setup(path, 1)


def test_united_atoms_are_warned_of(
    setup: Callable[..., Setup], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "all.top").write_text(TOPOLOGY)
    setup(species="topology all.top")
    assert caplog.messages == []
    text = TOPOLOGY.replace("18  39.948", "18 \\\n 41.964").replace(
        "HW       1   1.008", "HW 1 4.032"
    )
    (tmp_path / "all.top").write_text(text)
    assert setup(species="topology all.top").types.tolist() == [18, 8, 1, 1, 18, 18]
    assert "atom types Ar, HW have masses of other elements" in caplog.text


def test_text_from_elsewhere(tmp_path: Path) -> None:
    found = read_setup(tmp_path / "x", 1, "model m.pt\nspecies 18")
    assert (found.model, found.types.tolist()) == (tmp_path / "m.pt", [18])


def test_elements_of_a_topology(setup: Callable[..., Setup], tmp_path: Path) -> None:
    (tmp_path / "all.top").write_text(TOPOLOGY)
    assert setup(species="topology all.top").types.tolist() == [18, 8, 1, 1, 18, 18]
    assert setup("atoms 2-4", species="topology all.top").types.tolist() == [8, 1, 1]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("AR 2", "AR 3"), ["expected 6 atoms", "got 7"]),
        (("AR 2", "ODD 2"), ["atomic numbers", "type 'LAST' of atom 5"]),
        (("1 Ar 1", "1 XX 1"), ["atomic numbers", "type 'XX' of atom 1"]),
        (("1 Ar 1", "1 opls_99 1"), ["atomic numbers", "type 'opls_99' of atom 1"]),
        (("SOL 1\n", "WAT 1\n"), ["molecules that it describes", "'WAT'"]),
        (("SOL 1\n", "SOL one\n"), ["a name and a number", "SOL one"]),
        (
            ("[ system ]", '#include "x.itp"\n[ system ]'),
            ["preprocessor", "#include", "grompp -pp"],
        ),
    ],
)
def test_topologies_that_do_not_fit(
    setup: Callable[..., Setup], tmp_path: Path, change: tuple[str, str], parts: list[str]
) -> None:
    (tmp_path / "all.top").write_text(TOPOLOGY.replace(*change))
    with refused("all.top", *parts):
        setup(species="topology all.top")


ATOMS = Atoms("CAlCaNOH", positions=np.arange(18.0).reshape(6, 3), cell=[20, 20, 20], pbc=True)


@pytest.mark.parametrize("name", ["all.xyz", "all.pdb", "all.cif", "POSCAR"])
def test_elements_of_a_structure(setup: Callable[..., Setup], tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ATOMS)
    found = setup("atoms 2-6", species=f"structure {name}")
    assert found.types.tolist() == ATOMS.numbers[1:].tolist()


def test_structures_that_do_not_fit(setup: Callable[..., Setup], tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", ATOMS[:4])
    with refused("all.xyz", "expected 6 atoms", "got 4"):
        setup(species="structure all.xyz")
    write(tmp_path / "names.gro", ATOMS)
    with refused("names.gro", "says elements", "names of atoms only"):
        setup(species="structure names.gro")
    write(tmp_path / "names.pdb", ATOMS)
    lines = (tmp_path / "names.pdb").read_text().splitlines()
    (tmp_path / "names.pdb").write_text("\n".join(line[:70] for line in lines))
    with refused("names.pdb", "says elements", "columns 77 and 78"):
        setup(species="structure names.pdb")
    dummy = ATOMS.copy()
    dummy.numbers[3] = 0
    write(tmp_path / "dummy.xyz", dummy)
    with refused("dummy.xyz", "none for atom 4"):
        setup(species="structure dummy.xyz")
    with refused("other.xyz", "no such file"):
        setup(species="structure other.xyz")


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["skinn 3 nm"], ["line 3", "skin", "device", "'skinn'"]),
        (["model other.pt"], ["'model'", "once", "line 3"]),
        (["device"], ["'device'", "a value", "nothing"]),
        (["device cpu cuda"], ["'device'", "one value", "cpu cuda"]),
        (["energies 'half"], ["line 3", "quotes", "'half"]),
        (["every 0"], ["'every'", "from 1", "'0'"]),
        (["every often"], ["'every'", "often"]),
        (["skin 1"], ["'skin'", "a number and a unit", "'1'"]),
        (["skin one nm"], ["'skin'"]),
        (["skin 1 eV"], ["'skin'"]),
        (["skin -1 nm"], ["'skin'"]),
        (["skin inf nm"], ["'skin'"]),
        (["periodic xx"], ["'periodic'", "xy", "xx"]),
        (["periodic maybe"], ["'periodic'", "maybe"]),
        (["periodic xy please"], ["'periodic'", "perhaps unchecked", "xy please"]),
        (["atoms 0-2"], ["'atoms'", "from 1 to 6", "got 0"]),
        (["atoms 7"], ["'atoms'", "from 1 to 6", "got 7"]),
        (["atoms 1-"], ["'atoms'", "ranges", "1-"]),
        (["atoms first"], ["'atoms'", "ranges", "first"]),
        (["atoms 1-3,3-2"], ["'atoms'", "from a smaller to a larger", "3-2"]),
        (["atoms 1-3000000000"], ["'atoms'", "from 1 to 6", "3000000000"]),
        (["atoms 1-3,2"], ["'atoms'", "each atom once", "atom 2 again"]),
        (["group index.ndx Twice"], ["group 'Twice'", "one of that name", "two"]),
        (["atoms 1-2", "group a.ndx b"], ["'group'", "one of atoms, group", "atoms and group"]),
        (["structure a.xyz"], ["'structure'", "one of species", "species and structure"]),
        (["group index.ndx Nobody"], ["group 'Nobody'", "Some, Empty, Twice", "does not exist"]),
        (["group index.ndx Empty"], ["group 'Empty'", "from 1 to 6", "none"]),
        (["group index.ndx"], ["'group'", "the name of a group"]),
        (["group other.ndx Some"], ["other.ndx", "no such file"]),
        (["group odd.ndx Some"], ["odd.ndx", "groups of numbers", "one two"]),
    ],
)
def test_lines_that_can_not_be_understood(
    setup: Callable[..., Setup], tmp_path: Path, lines: list[str], parts: list[str]
) -> None:
    (tmp_path / "index.ndx").write_text("[ Some ]\n1 2 3\n[ Empty ]\n[ Twice ]\n1\n[ Twice ]\n2\n")
    (tmp_path / "odd.ndx").write_text("[ Some ]\none two\n")
    with refused(*parts):
        setup(*lines)


@pytest.mark.parametrize(
    ("species", "parts"),
    [
        ("species Ar Ar", ["one for each of the 6 atoms", "2 elements"]),
        ("species Argon", ["elements such as Ar", "'Argon'"]),
        ("species X", ["elements", "'X'"]),
        ("species 0", ["elements", "'0'"]),
        ("", ["the elements, by species, structure or topology", "nothing"]),
    ],
)
def test_elements_that_do_not_fit(
    setup: Callable[..., Setup], species: str, parts: list[str]
) -> None:
    with refused(*parts):
        setup(species=species)


def test_no_model(tmp_path: Path) -> None:
    with refused("'model'", "metatomic model", "nothing"):
        read_setup(tmp_path / "x", 1, "species Ar")
    with refused("setup file", "no such file"):
        read_setup(tmp_path / "x", 1)
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with refused("setup file", "text"):
        read_setup(tmp_path / "x", 1)

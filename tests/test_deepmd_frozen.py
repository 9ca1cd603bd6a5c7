"""Frozen models without DeePMD-kit: stand-ins with its interface, rewritten, converted, refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import deepmd_golden as golden
import deepmd_standin as standin
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from cli_runs import Cli
from trust_files import check_message, records_of, replaced, write

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.errors import ConfigurationError, ModelLoadError, UntrustedModelError
from alchemi_bridge.model import load_model
from alchemi_bridge.potentials.deepmd import (
    convert,
    from_deepmd,
    read_definition,
    to_metatomic,
)
from alchemi_bridge.potentials.deepmd.frozen import read_frozen
from alchemi_bridge.potentials.deepmd.rewrite import rewrite

#: Sums of some ten terms of order one, in another order.
ROUNDING = 1e-12


def structure(periodic: bool) -> Atoms:
    """Ten atoms in a cell that is thinner than the cutoff, or a cluster."""
    random = np.random.default_rng(2)
    atoms = Atoms(
        random.choice(["O", "H"], 10),
        positions=random.uniform(0.0, 1.0, (10, 3)),
        cell=[[5.1, 0.0, 0.0], [0.8, 4.9, 0.0], [0.3, -0.4, 3.2]],
        pbc=periodic,
    )
    atoms.set_scaled_positions(atoms.positions)
    return atoms


def neighbors(atoms: Atoms) -> list[list[tuple[int, float]]]:
    """(neighbour, distance) of every atom, from ASE."""
    rows: list[list[tuple[int, float]]] = [[] for _ in atoms]
    for i, j, r in zip(*neighbor_list("ijd", atoms, standin.RCUT), strict=True):
        rows[i].append((int(j), float(r)))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frozen")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    return standin.save(folder / "plain.pth", "dpa1")


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("kind", ["dpa1", "dpa3"])
def test_converted_stand_in(kind: str, periodic: bool, tmp_path: Path) -> None:
    """Energies of the atoms against plain loops, forces against finite differences."""
    done = convert(standin.save(tmp_path / "x.pth", kind), tmp_path / "x.pt")
    assert (done.kind, done.code, done.operators) == (kind, "deepmd", ())
    assert done.types == {"O": 8, "H": 1}
    assert done.interaction_range == standin.RCUT * (2 if kind == "dpa3" else 1)
    atoms = structure(periodic)
    atoms.calc = BridgeCalculator(done.path)
    types = [standin.TYPE_MAP.index(symbol) for symbol in atoms.get_chemical_symbols()]

    def reference() -> np.ndarray:
        return standin.reference(kind, types, neighbors(atoms))

    np.testing.assert_allclose(atoms.get_potential_energies(), reference(), atol=ROUNDING)
    forces = atoms.get_forces()
    direction = np.random.default_rng(4).normal(size=forces.shape)
    step = 1e-5
    atoms.positions += step * direction
    up = reference().sum()
    atoms.positions -= 2 * step * direction
    slope = (up - reference().sum()) / (2 * step)
    assert -(forces * direction).sum() == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_the_nearest_of_each_type_count(tmp_path: Path) -> None:
    """One type has more neighbours than it may, all together are fewer than they may."""
    sel = [3, 200]
    descriptor = {**standin.DEFINITIONS["se_e2_a"], "sel": sel}
    path = standin.save(tmp_path / "x.pth", "se_e2_a", descriptor=descriptor)
    done = convert(path, tmp_path / "x.pt", code="deepmd")
    atoms = structure(True)
    types = [standin.TYPE_MAP.index(symbol) for symbol in atoms.get_chemical_symbols()]
    rows = neighbors(atoms)
    kept = standin.nearest(types, rows, sel)
    assert max(map(len, rows)) < sum(sel)
    assert kept != [sorted(row, key=lambda entry: (types[entry[0]], entry[1])) for row in rows]
    atoms.calc = BridgeCalculator(done.path)
    expected = standin.reference("se_e2_a", types, kept)
    np.testing.assert_allclose(atoms.get_potential_energies(), expected, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["dpa1", "dpa3"])
def test_energies_of_some_atoms(kind: str, tmp_path: Path) -> None:
    """Home atoms of a rank: with messages from the others, without anything for the others."""
    from alchemi_bridge.potentials.deepmd.adapter import frozen_energies

    path = standin.save(tmp_path / "x.pth", kind)
    scripted = frozen_energies(read_frozen(path), "x")
    atoms = structure(True)
    first, second, vectors = neighbor_list("ijD", atoms, standin.RCUT)
    pairs = [torch.from_numpy(a) for a in (vectors, first, second)]
    pairs[0].requires_grad_(True)
    types = torch.tensor([0 if s == "O" else 1 for s in atoms.get_chemical_symbols()])
    every = scripted(*pairs, types)
    for some in ([4], [9, 0, 3], []):
        centers = torch.tensor(some, dtype=torch.int64)
        found = scripted(*pairs, types, centers)
        # engines differentiate whatever comes back
        assert found.requires_grad
        torch.testing.assert_close(found, every[centers], rtol=0, atol=ROUNDING)


def test_masks_follow_the_model_to_another_device(plain: Path) -> None:
    """In the file they are plain tensors, which stay where they are."""
    before = torch.jit.load(str(plain))
    assert "atomic_model.mask.type_mask" not in before.state_dict()
    module = read_frozen(plain).module
    assert "atomic_model.mask.type_mask" in module.state_dict()
    assert module.to("meta").atomic_model.mask.type_mask.device.type == "meta"


def test_metadata_say_where_the_model_comes_from(plain: Path, tmp_path: Path) -> None:
    done = convert(plain, tmp_path / "x.pt")
    loaded = load_model(done.path)
    options = json.loads(loaded.metadata.extra["alchemi_bridge::options"])
    assert options["frozen_sha256"] == done.sha256
    assert options["model"]["descriptor"]["type"] == "dpa1"
    assert loaded.metadata.authors == []
    assert loaded.requests[0].strict


# --- C++ operators ------------------------------------------------------------------------------


def save_with_operators(path: Path, kind: str, what: str) -> Path:
    """In a process of its own, where the operator is declared."""
    program = Path(standin.__file__)
    command = [sys.executable, "-W", "ignore", str(program), str(path), kind, what]
    subprocess.run(command, check=True, timeout=120)
    return path


def test_operators_are_taken_out(tmp_path: Path) -> None:
    path = save_with_operators(tmp_path / "ops.pth", "dpa1", "plain")
    with pytest.raises(RuntimeError, match="Unknown builtin op: deepmd::tabulate_fusion_se_a"):
        torch.jit.load(str(path))
    done = convert(path, tmp_path / "ops.pt")
    assert done.operators == ("tabulate_fusion_se_a",)
    assert b"tabulate_fusion" not in b"".join(data for _, data in records_of(done.path))
    other = convert(standin.save(tmp_path / "x.pth"), tmp_path / "x.pt")
    atoms = structure(True)
    energies = []
    for model in (done.path, other.path):
        atoms.calc = BridgeCalculator(model)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[1]


def test_compressed_models_are_refused(tmp_path: Path) -> None:
    path = save_with_operators(tmp_path / "ops.pth", "dpa1", "compressed")
    with pytest.raises(ModelLoadError, match=r"C\+\+ operators.*'dp --pt compress'") as error:
        convert(path, tmp_path / "ops.pt")
    check_message(error)
    assert not (tmp_path / "ops.pt").exists()


def edited(source: Path, target: Path, old: str, new: str) -> Path:
    """A copy with the code of the stand-in changed."""
    records = records_of(source)
    [name] = [n for n, _ in records if n.endswith("deepmd/standin.py")]
    code = dict(records)[name].decode()
    assert old in code
    return write(target, replaced(records, name, code.replace(old, new).encode()))


def test_operators_of_other_libraries_are_refused(plain: Path, tmp_path: Path) -> None:
    path = edited(plain, tmp_path / "x.pth", "torch.clamp(", "ops.torchsparse.clamp(")
    with pytest.raises(ModelLoadError, match="operators of torchsparse") as error:
        convert(path, tmp_path / "x.pt")
    check_message(error)


@pytest.mark.parametrize(
    ("operator", "words"),
    [("clamp", "operators clamp"), ("border_op", "a call in another place")],
)
def test_operators_that_can_not_be_taken_out(
    operator: str, words: str, plain: Path, tmp_path: Path
) -> None:
    path = edited(plain, tmp_path / "x.pth", "torch.clamp(", f"ops.deepmd.{operator}(")
    with pytest.raises(ModelLoadError, match=words) as error:
        convert(path, tmp_path / "x.pt")
    check_message(error)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ('    ops.prim.RaiseException("no", "builtins.ValueError")\n', "code runs"),
        ("    bias = torch.div(self.bias, 0)\n", "finite energies"),
    ],
)
def test_code_that_does_not_run_is_refused(
    new: str, words: str, plain: Path, tmp_path: Path
) -> None:
    line = "    bias = self.bias\n"
    path = edited(plain, tmp_path / "x.pth", line, line + new)
    with pytest.raises(ModelLoadError, match=words) as error:
        convert(path, tmp_path / "x.pt")
    check_message(error)


# --- what is refused ----------------------------------------------------------------------------


def descriptor(kind: str, **changes: Any) -> dict[str, Any]:
    """Changes of the definition of a stand-in."""
    return {"descriptor": {**standin.DEFINITIONS[kind], **changes}}


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("dpa2", {}, "descriptor 'dpa2'"),
        ("dpa1", {"type": "linear_ener"}, "type 'linear_ener'"),
        ("dpa1", {"fitting_net": {"type": "dipole"}}, "fitting net 'dipole'"),
        ("dpa1", {"descriptor": [1]}, "descriptor 'None'"),
        ("dpa1", {"pair_exclude_types": [[0, 1]]}, "pair_exclude_types"),
        ("dpa1", {"spin": {"use_spin": [True]}}, "model.spin"),
        ("dpa1", {"new_term": 1}, "model.new_term"),
        ("dpa1", {"facts": {"n_fparam": 2}}, "numb_fparam"),
        ("dpa1", {"facts": {"precision": 6}}, "DP_INTERFACE_PREC=low"),
        ("dpa1", {"modifier": {"type": "dipole_charge"}}, "model.modifier"),
        ("dpa1", descriptor("dpa1", precision="bfloat16"), "descriptor.precision"),
        ("dpa3", {"fitting_net": {"precision": "float16"}}, "fitting_net.precision"),
        ("se_e2_a", descriptor("se_e2_a", precision="float16"), "'float16'"),
        ("dpa1", descriptor("dpa1", precision="float32", attn_layer=1), "rounding errors"),
        ("dpa1", descriptor("dpa1", rcut=3.0), "code says, 3.5, got 3.0"),
        ("dpa3", descriptor("dpa3", repflow={"nlayers": 2, "e_rcut": 4.0}), "e_rcut"),
        ("dpa3", descriptor("dpa3", repflow={"nlayers": 3, "e_rcut": 3.5}), "code says, 2, got 3"),
        ("dpa3", descriptor("dpa3", repflow=[]), "e_rcut"),
    ],
)
def test_refused(kind: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.jit.save(standin.frozen(kind, **options), str(path), {"data_modifier.pth": ""})
    with pytest.raises(ModelLoadError) as error:
        convert(path, tmp_path / "x.pt")
    check_message(error)
    assert words in str(error.value)
    assert not (tmp_path / "x.pt").exists()


def test_a_data_modifier_is_refused(tmp_path: Path) -> None:
    path = standin.save(tmp_path / "x.pth", modifier="a second model")
    with pytest.raises(ModelLoadError, match="modifier") as error:
        convert(path, tmp_path / "x.pt")
    check_message(error)


def test_a_file_without_the_methods_is_refused(plain: Path, tmp_path: Path) -> None:
    path = edited(plain, tmp_path / "x.pth", "format_nlist", "format_list")
    with pytest.raises(ModelLoadError, match="'format_nlist'") as error:
        convert(path, tmp_path / "x.pt")
    check_message(error)


@pytest.mark.parametrize("rcut", [np.nan, np.inf, -3.5, 0.0])
def test_a_cutoff_that_is_no_length_is_refused(rcut: float, tmp_path: Path) -> None:
    scripted = standin.frozen("dpa1")
    scripted.rcut = rcut
    torch.jit.save(scripted, str(tmp_path / "x.pth"), {"data_modifier.pth": ""})
    with pytest.raises(ModelLoadError, match="a length above zero") as error:
        convert(tmp_path / "x.pth", tmp_path / "x.pt")
    check_message(error)


def test_types_that_are_not_those_of_the_definition_are_refused(tmp_path: Path) -> None:
    scripted = standin.frozen("dpa1")
    scripted.type_map = ["O", "C"]
    torch.jit.save(scripted, str(tmp_path / "x.pth"), {"data_modifier.pth": ""})
    with pytest.raises(ModelLoadError, match=r"type_map.*'C'.*got .*'H'") as error:
        convert(tmp_path / "x.pth", tmp_path / "x.pt")
    check_message(error)


@pytest.mark.parametrize(
    ("changes", "jumps"),
    [
        ({"attn_layer": 2}, True),
        ({"attn_layer": 2, "smooth_type_embedding": False}, True),
        ({"attn_layer": 2, "smooth_type_embedding": True}, False),
        ({"attn_layer": 0, "smooth_type_embedding": False, "precision": "float32"}, False),
    ],
)
def test_jumps_at_the_cutoff_are_said(
    changes: dict[str, Any], jumps: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = standin.save(tmp_path / "x.pth", **descriptor("dpa1", **changes))
    convert(path, tmp_path / "x.pt")
    assert ("jumps where an atom passes the cutoff" in caplog.text) is jumps


def test_the_bias_that_a_training_began_with_does_not_matter(tmp_path: Path) -> None:
    """The weights have what came of it; a training itself would have to heed it."""
    key = {"preset_out_bias": {"energy": [None, 2.0]}}
    path = standin.save(tmp_path / "x.pth", **key)
    assert convert(path, tmp_path / "x.pt").code == "deepmd"
    section = {**golden.section("se_e2_a-one-side"), **key}
    assert read_definition(section, trained=True) == read_definition(
        golden.section("se_e2_a-one-side")
    )
    with pytest.raises(ConfigurationError, match="preset_out_bias"):
        read_definition(section)


def test_rewritten_code_is_checked_again(plain: Path) -> None:
    [(name, code)] = [(n, d) for n, d in records_of(plain) if n.endswith("deepmd/standin.py")]
    source = code.decode()
    assert rewrite(plain.read_bytes(), {name: source}, "x")[1] == ()
    line = "    bias = self.bias\n"
    source = source.replace(line, f'{line}    torch.save(bias, "x")\n')
    with pytest.raises(UntrustedModelError, match="writes files") as error:
        rewrite(plain.read_bytes(), {name: source}, "x")
    check_message(error)


@pytest.mark.parametrize("method", ["get_rcut", "get_dim_fparam", "has_message_passing"])
def test_a_file_that_does_not_answer_is_refused(method: str, plain: Path, tmp_path: Path) -> None:
    path = edited(plain, tmp_path / "x.pth", method, f"{method}_2")
    with pytest.raises(ModelLoadError, match=f"answers.*'{method}'") as error:
        convert(path, tmp_path / "x.pt")
    check_message(error)


def test_messages_in_layers_that_are_not_known_are_refused(tmp_path: Path) -> None:
    path = standin.save(tmp_path / "x.pth", "dpa3")
    records = records_of(path)
    renamed = []
    for name, data in records:  # an attribute stands in the code and, with its length, in the data
        if name.endswith(("standin.py", "data.pkl")):
            data = data.replace(b"repflows", b"repblock")
        renamed.append((name, data))
    path = write(tmp_path / "y.pth", renamed)
    with pytest.raises(ModelLoadError, match=r"answers.*repflows") as error:
        convert(path, tmp_path / "x.pt")
    check_message(error)


def test_a_file_without_definition_is_refused(plain: Path, tmp_path: Path) -> None:
    path = edited(plain, tmp_path / "x.pth", "get_model_def_script", "get_script")
    with pytest.raises(ModelLoadError, match="what is in it") as error:
        convert(path, tmp_path / "x.pt")
    check_message(error)


def test_other_files_are_named(tmp_path: Path, plain: Path) -> None:
    checkpoint = tmp_path / "model.ckpt.pt"
    torch.save({"model": {}}, checkpoint)
    script = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(script))
    definition = read_definition(golden.section("se_e2_a-one-side"))
    metatomic_file = tmp_path / "metatomic.pt"
    to_metatomic(golden.load("se_e2_a-one-side")[0], definition).save(metatomic_file)
    graph = tmp_path / "graph.pb"
    graph.write_bytes(b"\n\x12frozen graph")
    for path, words in (
        (checkpoint, "a checkpoint"),
        (script, "TorchScript file of something else"),
        (metatomic_file, "a metatomic model already"),
        (graph, "no zip archive"),
        (tmp_path / "nothing.pth", "no such file"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(ModelLoadError) as error:
            convert(path, tmp_path / "x.pt")
        check_message(error)
        assert words in str(error.value)
    with pytest.raises(ModelLoadError, match="convert deepmd"):
        load_model(plain)


def test_a_frozen_file_is_checked_before_it_runs(plain: Path, tmp_path: Path) -> None:
    records = records_of(plain)
    foreign = write(tmp_path / "foreign.pth", [*records, ("plain/extra/extension_libs", b"x")])
    with pytest.raises(UntrustedModelError, match="extension_libs"):
        convert(foreign, tmp_path / "x.pt")
    path = edited(plain, tmp_path / "x.pth", "torch.clamp(", "torch.from_file(")
    with pytest.raises(UntrustedModelError, match="maps files into memory"):
        convert(path, tmp_path / "x.pt")
    with pytest.raises(UntrustedModelError, match="the pinned file"):
        convert(plain, tmp_path / "x.pt", sha256="0" * 64)
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        convert(plain, tmp_path / "x.pt", sha256="0")
    assert not (tmp_path / "x.pt").exists()


def test_options_that_are_wrong(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="one of auto, native, deepmd"):
        convert(plain, tmp_path / "x.pt", code="ours")
    with pytest.raises(ConfigurationError, match="a folder that exists"):
        convert(plain, tmp_path / "no" / "x.pt")
    with pytest.raises(ConfigurationError, match="another file"):
        convert(plain, plain)
    with pytest.raises(ConfigurationError, match="types of the model"):
        convert(plain, tmp_path / "x.pt", numbers={"C": 6})
    with pytest.raises(ModelLoadError, match="got a dpa1 model"):
        convert(plain, tmp_path / "x.pt", code="native")


# --- native code in place of the file's ---------------------------------------------------------


def frozen_se_e2_a(
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
    shift: float = 0.0,
    name: str = "se_e2_a-one-side",
    bias: float = 0.0,
) -> Path:
    """A stand-in of se_e2_a whose weights are a golden model's; its own code is something else."""
    from alchemi_bridge.potentials.deepmd.frozen import FrozenFile

    _, definition = golden.load(name)
    weights = golden.weights(name)
    weights["atomic_model.out_bias"] = weights["atomic_model.out_bias"] + bias
    model = from_deepmd(definition, weights)

    class Theirs(torch.nn.Module):
        def forward(
            self, v: torch.Tensor, i: torch.Tensor, j: torch.Tensor, types: torch.Tensor
        ) -> torch.Tensor:
            once = slice(0, len(i) // 2)  # it is given both directions of every pair
            return model(v[once], i[once], j[once], types) * (1.0 + shift)

    class Module:
        def state_dict(self) -> dict[str, torch.Tensor]:
            return weights

    file = FrozenFile(
        module=Module(),  # type: ignore[arg-type]
        definition=golden.section(name),
        kind="se_e2_a",
        type_map=definition.type_map,
        rcut=definition.rcut,
        interaction_range=definition.rcut,
        sha256="0" * 64,
        operators=(),
    )
    place = sys.modules["alchemi_bridge.potentials.deepmd.convert"]
    monkeypatch.setattr(place, "read_frozen", lambda *_, **__: file)
    monkeypatch.setattr(place, "frozen_energies", lambda *_: Theirs())
    return path


def test_native_code_is_compared_with_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = frozen_se_e2_a(monkeypatch, tmp_path / "x.pth")
    done = convert(path, tmp_path / "x.pt")
    assert done.code == "native"
    assert done.difference == 0.0
    name = "se_e2_a-one-side"
    coordinates, cells, types, expected = golden.frame(name, "triclinic")
    assert cells is not None
    atoms = Atoms(["OH"[t] for t in types], coordinates[0].numpy(), cell=cells[0].numpy(), pbc=True)
    atoms.calc = BridgeCalculator(done.path)
    limits = golden.limits(name)
    np.testing.assert_allclose(
        atoms.get_potential_energies(), expected["energies"], rtol=0, atol=limits["energies"]
    )
    np.testing.assert_allclose(
        atoms.get_forces(), expected["forces"], rtol=0, atol=limits["forces"]
    )
    virial = atoms.get_stress(voigt=False) * atoms.get_volume()
    theirs = 0.5 * (expected["virial"] + expected["virial"].T)
    np.testing.assert_allclose(virial, theirs, rtol=0, atol=limits["virial"])


def test_native_code_that_disagrees_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = frozen_se_e2_a(monkeypatch, tmp_path / "x.pth", shift=1e-8)
    with pytest.raises(ModelLoadError, match=r"agrees with the native one.*use neither"):
        convert(path, tmp_path / "x.pt")


@pytest.mark.parametrize(("shift", "agrees"), [(1e-6, True), (1e-4, False)])
def test_agreement_is_relative_to_the_numbers(
    shift: float, agrees: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In float32, energies of 1000 eV have rounding errors of 1e-4 eV."""
    path = frozen_se_e2_a(monkeypatch, tmp_path / "x.pth", shift, "se_e2_a-float32", bias=-1000.0)
    if agrees:
        assert convert(path, tmp_path / "x.pt").difference == pytest.approx(1e-3, rel=0.1)
    else:
        with pytest.raises(ModelLoadError, match=r"within 0\.01 eV.*got a difference of 0\.1"):
            convert(path, tmp_path / "x.pt")


def test_own_code_that_gives_no_numbers_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = frozen_se_e2_a(monkeypatch, tmp_path / "x.pth", shift=np.inf)
    with pytest.raises(ModelLoadError, match="finite energies"):
        convert(path, tmp_path / "x.pt")


def test_se_e2_a_that_we_do_not_know_runs_its_own_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stand-in has none of the weights."""
    path = standin.save(tmp_path / "x.pth", "se_e2_a")
    done = convert(path, tmp_path / "x.pt")
    assert done.code == "deepmd"
    assert "taking the model's own code" in caplog.text
    with pytest.raises(ModelLoadError, match=r"fitting_net|tensor"):
        convert(path, tmp_path / "x.pt", code="native")


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_command(cli: Cli, plain: Path, tmp_path: Path) -> None:
    run = cli("convert", "deepmd", plain, tmp_path / "x.pt", "--json")
    assert run.status == 0
    assert run.stderr == ""
    assert run.document["kind"] == "dpa1"
    assert run.document["code"] == "deepmd"
    assert run.document["types"] == {"O": 8, "H": 1}
    assert run.document["difference"] is None
    assert (tmp_path / "x.pt").exists()


def test_command_with_types(cli: Cli, plain: Path, tmp_path: Path) -> None:
    run = cli("convert", "deepmd", plain, tmp_path / "x.pt", "--types", "H=3")
    assert run.status == 0
    assert re.search(r"types +O \(8\), H \(3\)", run.stdout)
    assert re.search(r"code +that of the frozen model", run.stdout)
    again = cli("convert", "deepmd", plain, tmp_path / "x.pt")
    assert again.status == 2
    assert "pass --force" in again.stderr
    run = cli("convert", "deepmd", plain, tmp_path / "x.pt", "--types", "H=0", "--force")
    assert run.status == 2
    assert "atomic type: expected an integer of at least 1, got 0" in run.stderr
    for wrong in ("H", "=3", "H=x"):
        run = cli("convert", "deepmd", plain, tmp_path / "y.pt", "--types", wrong)
        assert run.status == 2
        assert "NAME=NUMBER" in run.stderr


def test_command_says_what_is_wrong(cli: Cli, tmp_path: Path) -> None:
    run = cli("convert", "deepmd", tmp_path / "none.pth", tmp_path / "x.pt")
    assert run.status == 2
    assert run.stderr.startswith("error: frozen model")
    run = cli("convert", "tensorflow", tmp_path / "none.pth", tmp_path / "x.pt")
    assert run.status == 2


def test_help_needs_no_torch() -> None:
    program = (
        "import sys\nfrom alchemi_bridge.cli.main import main\n"
        "main(['convert', '--help'])\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "DeePMD-kit is not needed" in done.stdout

"""Keywords of the C interface: what each one does, and what is no value for it."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import c_callers as c
import numpy as np
import pytest
import torch
from c_callers import BOX, N, opened, places, refused

from alchemi_bridge import Search
from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface import table as table_module
from alchemi_bridge.engines.interface.options import READERS, VARIANTS


def energy_of(model: Path, keywords: Mapping[str, str], **fields: Any) -> dict[str, np.ndarray]:
    with c.Engine(model, {"device": "cpu"} | dict(keywords), **fields) as engine:
        engine.set_atoms(np.full(N, 6))
        engine.set_pairs(Search(0.5), BOX)
        out = c.buffers(N)
        engine.compute(places(), BOX, out)
    return out


def test_keywords_that_change_results(models: Callable[[str], Path]) -> None:
    model = models("variants")
    plain = energy_of(model, {})
    assert np.abs(plain["forces"]).max() > 1e-3
    for keywords, factor in (
        ({"scale": "-0.5"}, -0.5),
        ({"variant": "pbe"}, 2.0),
        ({"variant/energy": "scan"}, 3.0),
        ({"variant/energy": "scan", "variant": "pbe"}, 3.0),
        ({"variant": "pbe", "variant/energy": "scan"}, 3.0),
        ({"variant/energy_uncertainty": "pbe"}, 1.0),
        ({"check_consistency": "on"}, 1.0),
        ({"tuning": "on"}, 1.0),
        ({"non_conservative": "off"}, 1.0),
    ):
        found = energy_of(model, {"uncertainty_threshold": "off", **keywords})
        for name, values in found.items():
            wanted = factor * plain[name]
            np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-12, err_msg=name)
    direct = energy_of(model, {"uncertainty_threshold": "off", "non_conservative": "on"})
    of_forces = energy_of(model, {"uncertainty_threshold": "off", "non_conservative": "forces"})
    of_stress = energy_of(model, {"uncertainty_threshold": "off", "non_conservative": "stress"})
    for name, other in (("forces", of_forces), ("virial", of_stress)):
        assert np.abs(direct[name] - plain[name]).max() > 1e-3
        np.testing.assert_array_equal(other[name], direct[name])
    np.testing.assert_allclose(of_forces["virial"], plain["virial"], rtol=1e-12, atol=1e-12)
    other = energy_of(model, {"non_conservative": "on", "variant/non_conservative_forces": "pbe"})
    assert np.abs(other["forces"] - direct["forces"]).max() > 1e-3


def test_other_keywords(models: Callable[[str], Path], tmp_path: Path) -> None:
    model = models("pair")
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    opened(model, {"sha256": digest})
    with refused(c.MODEL, digest):
        opened(model, {"sha256": "0" * 64})
    opened(model, {"extensions": str(tmp_path)})
    before = torch.get_num_threads()
    try:
        opened(model, {"threads": "2"})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for name, attribute in (("tuning", "tuned"), ("check_consistency", "check_consistency")):
        with c.Engine(models("not_strict"), {"device": "cpu", name: "yes"}) as engine:
            provider = table_module._sessions[engine.handle.value].provider
            assert getattr(provider, attribute) is (name == "check_consistency")
    told: list[str] = []
    log = structs.LOG(lambda _user, _level, text: told.append(text.decode()))
    for threshold, wanted in (("199", 1), ("201", 0), ("off", 0)):  # meV; the model says 200
        told.clear()
        energy_of(models("uncertain"), {"uncertainty_threshold": threshold}, log=log)
        assert len(told) == wanted, threshold


BAD_VALUES = {
    "device": ["", "gpu", "cpu:x", "tpu"],
    "extensions": ["", "/nowhere/at/all"],
    "sha256": ["", "abc"],
    "check_consistency": ["", "1", "ON", "perhaps"],
    "non_conservative": ["", "energy", "both"],
    "scale": ["", "nan", "inf", "two"],
    "uncertainty_threshold": ["", "0", "-1", "none", "inf"],
    "tuning": ["", "auto"],
    "threads": ["", "0", "-2", "2.5", "many", "99999999999999999999"],
    "variant": ["blyp"],
    **{f"variant/{name}": ["blyp"] for name in VARIANTS},
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values(name: str, models: Callable[[str], Path]) -> None:
    assert set(READERS) <= set(BAD_VALUES)
    for value in BAD_VALUES[name]:
        keywords = {"device": "cpu", name: value}
        if name.startswith("variant/non"):
            keywords["non_conservative"] = "on"
        with pytest.raises(c.Failure) as caught:
            c.Engine(models("variants"), keywords).close()
        of_device = (c.INPUT,) if name == "device" else ()
        assert caught.value.code in (c.CONFIGURATION, c.MODEL, *of_device), (value, caught.value)
        assert "expected" in caught.value.message


def test_unknown_keywords_and_texts(models: Callable[[str], Path]) -> None:
    model = models("pair")
    for name in ("", "Device", "variant/", "variant/forces", "device "):
        with refused(c.CONFIGURATION, f"'{name}'", "uncertainty_threshold"):
            opened(model, {name: "on"})
    twice = (ctypes.c_char_p * 4)(b"device", b"cpu", b"device", b"cuda")
    with refused(c.CONFIGURATION, "'device'", "twice"):
        opened(model, keywords=twice, n_keywords=2)
    for words in ((b"\xff", b"on"), (b"device", b"\xff")):
        with refused(c.CONFIGURATION, "UTF-8"):
            opened(model, keywords=(ctypes.c_char_p * 2)(*words), n_keywords=1)
    for field in ("length_unit", "energy_unit"):
        with refused(c.CONFIGURATION, "UTF-8"):
            opened(model, **{field: b"\xc5"})
        for unit in (b"parsnip", b"", b"eV" if field == "length_unit" else b"nm"):
            with refused(c.CONFIGURATION):
                opened(model, **{field: unit})
    with refused(c.MODEL):
        opened("\udcff\udcfe.pt")
    assert c.message()

"""A checkpoint that was proved on this machine is not proved again, and is whenever anything that counts is another."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import re
import shutil
import stat

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import lostattn as la
from lostattn.errors import InputError, UnsupportedModel
from lostattn.points.settled_sites import describe_sites, restore_sites
from lostattn.selftest import proof_key
from lostattn.zoo import path as bundled

NOTHING = {"slots": [], "absent": [], "no_maps": 3, "logit_path": {}}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOSTATTN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "proofs"


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(bundled("tiny-llava"), tmp_path / "mine")


@pytest.fixture
def asked(monkeypatch):
    """How often a model was to be proved; nothing is run for it."""
    seen = []
    monkeypatch.setattr(la.LVLM, "selftest", lambda self: seen.append(1))
    return seen


@pytest.fixture
def proofs(monkeypatch):
    """How often a model was proved."""
    seen = []
    honest = la.LVLM.selftest
    monkeypatch.setattr(
        la.LVLM, "selftest", lambda self, *given, **named: seen.append(1) or honest(self, *given, **named)
    )
    return seen


def zeroed(folder):
    """The checkpoint with an attention that writes nothing in one layer."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if re.search(r"language_model.*layers\.4\.self_attn\.o_proj\.weight", n))
    weights[name] = torch.zeros_like(weights[name])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_it_is_proved_once_and_its_points_are_the_same(checkpoint, cache, proofs):
    first = la.load(checkpoint)
    assert len(proofs) == 1 and len(list(cache.iterdir())) == 1
    again = la.load(checkpoint)
    assert len(proofs) == 1
    assert again.hook_names == first.hook_names and again.sites.absent == first.sites.absent
    assert again.sites.slots == first.sites.slots and again.sites.logit_path == first.sites.logit_path
    assert la.load(checkpoint, selftest=True).hook_names == first.hook_names and len(proofs) == 1
    la.load(checkpoint, selftest="always")
    assert len(proofs) == 2
    la.load(checkpoint, selftest=False)
    assert len(proofs) == 2
    assert stat.S_ISREG(next(cache.iterdir()).stat().st_mode) and len(list(cache.iterdir())) == 1


def test_other_weights_are_proved_and_refused(checkpoint, cache, proofs):
    la.load(checkpoint)
    zeroed(checkpoint)
    for _ in range(2):  # what was refused is not remembered
        with pytest.raises(
            UnsupportedModel, match=re.escape("a perturbed blocks.4.attn.hook_pattern moves the logits")
        ):
            la.load(checkpoint)
    assert len(proofs) == 3


def test_weights_of_the_same_size_and_name(checkpoint, cache, asked):
    """A file that another one took the place of, as training does each epoch."""
    la.load(checkpoint)
    weights = checkpoint / "model.safetensors"
    then = weights.stat().st_mtime_ns
    os.utime(weights, ns=(then, then + 1))
    la.load(checkpoint)
    assert len(asked) == 2


def test_a_loaded_model_is_always_proved(checkpoint, cache, proofs):
    model = la.load(checkpoint)
    with torch.no_grad():
        model.hf.model.language_model.layers[4].self_attn.o_proj.weight.zero_()
    with pytest.raises(UnsupportedModel):
        la.load(model.hf, processor=model.processor)
    assert len(proofs) == 2


def test_a_changed_config(checkpoint, cache, asked):
    la.load(checkpoint)
    told = json.loads((checkpoint / "config.json").read_text())
    told["text_config"]["rms_norm_eps"] = 2 * told["text_config"].get("rms_norm_eps", 1e-6)
    (checkpoint / "config.json").write_text(json.dumps(told))
    la.load(checkpoint)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "settings",
    [{"dtype": torch.bfloat16}, {"attn_implementation": "eager"}, {"device_map": "cpu"}],
    ids=lambda s: str(*s),
)
def test_another_dtype_kernel_or_place(checkpoint, cache, asked, settings):
    la.load(checkpoint)
    la.load(checkpoint, **settings)
    assert len(asked) == 2
    la.load(checkpoint, **settings)
    la.load(checkpoint)
    assert len(asked) == 2


def load_reading_versions_again(checkpoint):
    """Load it as another process would, which knows no versions yet."""
    proof_key._libraries.cache_clear()
    try:
        la.load(checkpoint)
    finally:
        proof_key._libraries.cache_clear()


@pytest.mark.parametrize("library", ["torch", "transformers", "nnsight", "peft"])
def test_another_version_of_a_library(checkpoint, cache, asked, monkeypatch, library):
    la.load(checkpoint)
    honest = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == library else honest(name))
    load_reading_versions_again(checkpoint)
    assert len(asked) == 2


def test_another_text_of_this_package(checkpoint, cache, asked, monkeypatch):
    la.load(checkpoint)
    monkeypatch.setattr(proof_key, "_own_code", lambda: "another")
    load_reading_versions_again(checkpoint)
    assert len(asked) == 2


def test_a_kernel_registered_anew_under_its_old_name(checkpoint, cache, asked, monkeypatch):
    la.load(checkpoint)
    honest = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def mine(*given, **named):
        return honest(*given, **named)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", mine)
    la.load(checkpoint)
    assert len(asked) == 2


def test_a_class_whose_forward_was_patched(checkpoint, cache, asked, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    la.load(checkpoint)
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: self.down_proj(self.act_fn(self.gate_proj(x))))
    la.load(checkpoint)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 100_000,
        lambda text: json.dumps([1, 2]),
        lambda text: json.dumps({**json.loads(text), "format": "another"}),
        lambda text: json.dumps({**json.loads(text), "key": {}}),
        lambda text: json.dumps({**json.loads(text), "sites": {}}),
        lambda text: json.dumps({**json.loads(text), "sites": None}),
        lambda text: json.dumps({**json.loads(text), "sites": {**NOTHING, "slots": [[1, 2]]}}),
        lambda text: json.dumps({**json.loads(text), "sites": NOTHING}),
    ],
    ids=["empty", "half", "deep", "a list", "another format", "another key", "no points", "none", "no slot", "no data"],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_none(checkpoint, cache, asked, spoil):
    names = la.load(checkpoint).hook_names
    record = next(cache.iterdir())
    whole = record.read_text()
    record.write_text(spoil(whole))
    assert la.load(checkpoint).hook_names == names and len(asked) == 2
    assert record.read_text() == whole  # and a sound one takes its place


def test_a_folder_in_its_place(checkpoint, cache, asked):
    la.load(checkpoint)
    record = next(cache.iterdir())
    record.unlink()
    record.mkdir()
    la.load(checkpoint)
    assert len(asked) == 2 and [path.name for path in cache.iterdir()] == [record.name]  # nothing else is left there


def test_where_nothing_can_be_written(checkpoint, tmp_path, asked, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LOSTATTN_CACHE", str(tmp_path / "file" / "cache"))
    assert la.load(checkpoint).processor is not None
    la.load(checkpoint)
    assert len(asked) == 2


def test_the_folder_of_caches(monkeypatch, tmp_path):
    from lostattn.files.places import cache_folder

    monkeypatch.setenv("LOSTATTN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LOSTATTN_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "lostattn"


@pytest.mark.parametrize("given", ["twice", ""])
def test_what_selftest_may_be(given):
    said = f"selftest is {given!r}; expected 'always', 'once' (or True), or False"
    with pytest.raises(InputError, match=re.escape(said)):
        la.load("tiny-llava", selftest=given)


def test_points_that_a_pass_took_away_come_back_so(tiny_llava):
    fresh = la.load("tiny-llava", selftest=False).sites
    dropped = fresh.slots[3]
    names = list(dropped.views)
    settled = fresh.settled(
        lambda slot: "seen twice" if slot is dropped else "", lambda slot: 0.0, {"ln_final.hook_in": "why"}
    )
    settled.logit_path = dataclasses.replace(settled.logit_path, scale=0.25)
    settled = settled.without_maps({tiny_llava.architecture.stack.blocks[0].attn.o: "it clips"})
    told = json.loads(json.dumps(describe_sites(settled)))
    back = restore_sites(fresh, told)
    assert back.names == settled.names and back.absent == settled.absent and back.no_maps == settled.no_maps
    assert back.logit_path == settled.logit_path and back.slots == settled.slots
    assert names[0] not in back.names and "blocks.0.attn.hook_result" not in back.names
    assert restore_sites(fresh, {**told, "slots": [["nothing", "x", "y", "", "", []]]}) is None

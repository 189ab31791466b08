"""Caches on disk: everything comes back, files are whole or not there, and strangers are refused."""

from __future__ import annotations

import json
from pathlib import Path

import bounds
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import FAMILIES, batched, unequal, wrapped
from torch.testing import assert_close

from lostattn import ActivationCache, KnockOut, Patch, load
from lostattn.errors import InputError
from lostattn.run.calls import Reading
from lostattn.run.make_calls import cache_call


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_comes_back_whole(family: str, tmp_path: Path) -> None:
    model = wrapped(family)
    prompt = model.prompt(inputs=batched(family, unequal(family)))
    edit = KnockOut("last", "image", layers=1)
    _, cache = model.run_with_cache(prompt, interventions=edit)
    path = cache.save(tmp_path / "deep" / "run", interventions=edit, note="a trial")
    assert path == tmp_path / "deep" / "run.safetensors"
    back = ActivationCache.load(path, model)
    assert list(back) == list(cache)
    for name in cache:  # derived points and the edited pattern too
        assert_close(back[name], cache[name], rtol=0, atol=0, equal_nan=True)
    assert back.prompt.ids == prompt.ids and back.prompt.texts == prompt.texts
    assert back.prompt.token_map.grids == prompt.token_map.grids
    assert back.prompt.str_tokens == prompt.str_tokens
    for spec in ("image", "last", "all"):
        assert (back.prompt.token_map[spec] == prompt.token_map[spec]).all()
    assert back.meta["note"] == "a trial"
    assert KnockOut.from_json(json.dumps(back.meta["interventions"])) == edit
    assert {"torch", "transformers", "nnsight"} <= set(back.meta["versions"])
    logits = model.run_with_hooks(back.prompt, interventions=edit)
    assert torch.equal(logits, model.run_with_hooks(prompt, interventions=edit))


def test_a_cache_tells_what_its_pass_ran_under(tmp_path: Path) -> None:
    model = wrapped("qwen")
    prompt = model.prompt(inputs=batched("qwen", unequal("qwen")))
    names = ["blocks.1.hook_resid_post", "blocks.2.attn.hook_pattern"]
    _, plain = model.run_with_cache(prompt, names)
    edit = Patch.of(plain, "resid_post", layers=1, positions="image") + KnockOut("last", "image", layers=2)
    _, cache = model.run_with_cache(prompt, names, edit)
    assert plain.interventions is None and cache.interventions is edit
    assert ", under Patch(values={'blocks.1.hook_resid_post': <float32 (" in repr(cache) and "under" not in repr(plain)
    assert cache.to(dtype=torch.float64).interventions == cache.apply_slice_to_batch_dim([0]).interventions == edit
    assert model.generate(prompt, edit, 2, names_filter=names).cache.interventions == edit
    back = ActivationCache.load(cache.save(tmp_path / "edited"), model)
    assert back.interventions == edit and list(back) == list(cache)
    with safe_open(str(tmp_path / "edited.safetensors"), framework="pt") as file:
        stored = [name for name in file.keys() if name.startswith("interventions.")]  # noqa: SIM118
        text = file.metadata()["lostattn"]
    assert stored and len(text) < 40_000  # the patch's values are tensors of the file, not words about it
    again = ActivationCache.load(back.save(tmp_path / "again"), model)
    assert again.interventions == edit and again.meta["interventions"] == edit.to_dict()
    whole = ActivationCache.load(plain.save(tmp_path / "plain"), model)
    assert whole.interventions is None and "interventions" not in whole.meta
    noted = ActivationCache.load(plain.save(tmp_path / "noted", interventions="by hand"), model)
    assert noted.interventions is None and noted.meta["interventions"] == "by hand"


def test_what_a_kernel_adds_to_plain_attention_comes_back_and_is_cut(tmp_path: Path) -> None:
    """A soft cap, a bias of positions and sinks, put into a cache as a kernel that has them would leave them."""
    model = wrapped("llava")
    prompt = model.prompt(inputs=batched("llava", unequal("llava")))
    _, cache = model.run_with_cache(prompt)
    batch, heads, pos = len(prompt), model.cfg.n_heads, prompt.n_pos
    generator = torch.Generator().manual_seed(3)
    bias, sinks = torch.randn(1, heads, pos, pos, generator=generator), torch.randn(heads, generator=generator)
    by_row = torch.randn(batch, heads, pos, 1, generator=generator)
    plain = cache["pattern", 1]
    cache._kept["blocks.1.attn.geometry"] |= {"softcap": 1.5, "bias": bias, "sinks": sinks}
    cache._kept["blocks.2.attn.geometry"] |= {"softcap": None, "bias": None, "sinks": by_row}
    back = ActivationCache.load(cache.save(tmp_path / "run"), model)
    part = cache.apply_slice_to_batch_dim([1])
    real = prompt.token_map.real[1]
    assert (cache["pattern", 1] - plain).abs().max() > 0.1
    for layer in (1, 2):
        assert torch.equal(back["pattern", layer], cache["pattern", layer])
        # A softmax over fewer keys, of products of fewer rows.
        whole, scores = cache["pattern", layer][1][:, real][:, :, real], cache["attn_scores", layer]
        bounds.close(part["pattern", layer][0], whole, bounds.sums(prompt.n_pos), size=scores)


def test_the_pictures_and_the_boxes_of_their_patches_come_back(tiny_llava, shapes_questions, tmp_path: Path) -> None:
    prompt = tiny_llava.prompt(list(shapes_questions[:2]))
    _, cache = tiny_llava.run_with_cache(prompt, "blocks.1.hook_resid_post")
    back = ActivationCache.load(cache.save(tmp_path / "c.safetensors"), tiny_llava)
    assert [p.tobytes() for p in back.prompt.images[1]] == [p.tobytes() for p in prompt.images[1]]
    assert torch.equal(back.prompt.token_map.grids[0][0].boxes(), prompt.token_map.grids[0][0].boxes())
    assert list(back) == ["blocks.1.hook_resid_post"]
    assert back.meta["model"] == "tiny-llava"


def test_a_cache_without_a_batch_axis_stays_so(tmp_path: Path) -> None:
    model = wrapped("llava")
    prompt = model.prompt(inputs=unequal("llava")[0])
    cache = model.run_with_cache(prompt, "blocks.1.hook_resid_post")[1].remove_batch_dim()
    back = ActivationCache.load(cache.save(tmp_path / "c"), model)
    assert back["resid_post", 1].shape == cache["resid_post", 1].shape == (prompt.n_pos, model.cfg.d_model)


def test_other_files_and_other_models_are_refused(tmp_path: Path) -> None:
    import tiny

    model = wrapped("llava")
    prompt = model.prompt(inputs=unequal("llava")[0])
    _, cache = model.run_with_cache(prompt, "blocks.1.hook_resid_post")
    path = cache.save(tmp_path / "c")
    other = load(tiny.llava(seed=1), selftest=False)
    with pytest.raises(InputError, match="load the model that it was made with"):
        ActivationCache.load(path, other)
    with pytest.raises(InputError, match="there is no file"):
        ActivationCache.load(tmp_path / "nothing.safetensors", model)
    (tmp_path / "text.safetensors").write_text("not tensors at all, but text enough for a header")
    with pytest.raises(InputError, match="is no safetensors file"):
        ActivationCache.load(tmp_path / "text.safetensors", model)
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="does not hold an activation cache of this format"):
        ActivationCache.load(tmp_path / "x.safetensors", model)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped("llava")
    prompt = model.prompt(inputs=unequal("llava")[0])
    _, cache = model.run_with_cache(prompt, "blocks.1.hook_resid_post")
    path = cache.save(tmp_path / "c")
    before = path.read_bytes()
    with pytest.raises(InputError, match="holds what has no place in JSON"):
        cache.save(path, model=model)

    def broken(tensors, where, metadata):
        Path(where).write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr("safetensors.torch.save_file", broken)
    with pytest.raises(OSError, match="the disk is full"):
        cache.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
    blocked = tmp_path / "c.safetensors" / "below"
    with pytest.raises(InputError, match="Cannot write to the folder"):
        cache.save(blocked)


def test_the_file_can_be_read_without_this_package(tmp_path: Path) -> None:
    model = wrapped("llava")
    _, cache = model.run_with_cache(model.prompt(inputs=unequal("llava")[0]), "blocks.1.hook_resid_post")
    with safe_open(str(cache.save(tmp_path / "c")), framework="pt") as file:
        assert torch.equal(file.get_tensor("blocks.1.hook_resid_post"), cache["resid_post", 1])
        assert json.loads(file.metadata()["lostattn"])["meta"]["class"] == "LlavaForConditionalGeneration"


def test_a_stored_reading_knows_what_the_pass_ran_under() -> None:
    model = wrapped("llava")
    prompt = model.prompt(inputs=batched("llava", unequal("llava")))
    edit = KnockOut("last", "image", layers=1)
    for under in (edit, None):
        call = cache_call(model, prompt, "blocks.1.hook_resid_post", under)
        back = Reading.from_dict(json.loads(json.dumps(call.reading.to_dict())))
        assert back == call.reading and back.interventions == under

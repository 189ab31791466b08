"""Means in one streaming pass: equal to the mean over all at once, kept on disk, and used to ablate and steer."""

from __future__ import annotations

from pathlib import Path

import bounds
import pytest
import torch
from safetensors.torch import save_file

from lostattn.errors import InputError
from lostattn.interventions.steering import Steer
from lostattn.means import Means, collect_means, difference_of_means

POINTS = ("attn_out", "z", "resid_post")


@pytest.fixture(scope="module")
def collected(tiny_qwen, shapes_questions):
    """Over the image tokens of eleven questions: pictures of several sizes, a last batch of three."""
    return collect_means(tiny_qwen, shapes_questions[:11], POINTS, [1, 4], "image", batch_size=4)


def test_streaming_means_are_the_means_of_everything(tiny_qwen, shapes_questions, collected: Means) -> None:
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in collected.mean}
    share = bounds.passes(tiny_qwen.hf, tiny_qwen.prompt(shapes_questions[0]).inputs)
    for question in shapes_questions[:11]:
        prompt = tiny_qwen.prompt(question)
        _, cache = tiny_qwen.run_with_cache(prompt, list(rows))
        for name in rows:
            rows[name].append(cache[name][prompt.token_map["image"]].double())
    assert len(rows) == len(POINTS) * 2
    for name, found in rows.items():
        whole = torch.cat(found)
        assert collected.count == len(whole)
        # Passes of a batch against passes alone, and sums over all rows; a square is off by twice as much.
        off = share + bounds.sums(len(whole))
        bounds.close(collected[name].double(), whole.mean(0), off, size=whole)
        bounds.close(collected.variance[name].double(), whole.var(0, correction=0), 2 * off, size=whole.square())
    assert collected["z", 4].shape == (tiny_qwen.cfg.n_heads, tiny_qwen.cfg.d_head)


def test_memory_does_not_grow_with_the_data(tiny_qwen, shapes_questions, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back from each pass is a sum, whatever the number of questions and positions."""
    sizes = []
    measure = tiny_qwen.measure

    def watched(*args, **kwargs):
        found = measure(*args, **kwargs)
        sizes.append(sum(t.numel() for own in found.values() for t in own.values()))
        return found

    monkeypatch.setattr(tiny_qwen, "measure", watched)
    collect_means(tiny_qwen, shapes_questions[:6], "resid_post", 1, batch_size=2)
    collect_means(tiny_qwen, shapes_questions[:6], "resid_post", 1, batch_size=6)
    assert sizes == [1 + 2 * tiny_qwen.cfg.d_model] * 4


def test_means_are_kept_and_used_to_ablate(tiny_qwen, shapes_questions, collected: Means, tmp_path: Path) -> None:
    back = Means.load(collected.save(tmp_path / "means"))
    assert back.count == collected.count and back.meta == collected.meta
    for name in collected.mean:
        assert torch.equal(back[name], collected[name])
    prompt = tiny_qwen.prompt(shapes_questions[0])
    _, cache = tiny_qwen.run_with_cache(prompt, interventions=back.ablate("attn", [1, 4]) + back.ablate("head", 1, 3))
    for layer in (1, 4):
        mean = collected["attn_out", layer]
        assert torch.equal(cache["attn_out", layer][0], mean.expand(prompt.n_pos, -1))
    assert torch.equal(cache["z", 1][0, :, 3], collected["z", 1][3].expand(prompt.n_pos, -1))
    with pytest.raises(InputError, match="no mean of 'blocks.2.hook_attn_out' was collected"):
        back.ablate("attn", 2)
    with pytest.raises(InputError, match="what is 'heads'; expected one of"):
        back.ablate("heads", 1)


def test_a_difference_of_means_points_from_one_set_to_the_other(tiny_llava, shapes_questions) -> None:
    a, b = shapes_questions[:5], shapes_questions[5:12]
    found = difference_of_means(tiny_llava, a, b, "resid_post", [2], "last", batch_size=3)
    means = []
    for data in (a, b):
        rows = [tiny_llava.run_with_cache(q, "blocks.2.hook_resid_post")[1]["resid_post", 2][0, -1] for q in data]
        means.append(torch.stack(rows).double().mean(0))
    name = "blocks.2.hook_resid_post"
    assert found.counts == (5, 7)
    share = bounds.passes(tiny_llava.hf, tiny_llava.prompt(a).inputs)
    bounds.close(found.vectors[name].double(), means[0] - means[1], 2 * share, size=torch.stack(means))
    edit = found.steer(2, scale=-1.5, positions="last")
    assert edit.parts == (Steer(found.vectors[name], 2, -1.5, "last", "resid_post"),)
    with pytest.raises(InputError, match="no direction was made for layer 3"):
        found.steer(3)
    with pytest.raises(InputError, match="'z' cannot be steered"):
        difference_of_means(tiny_llava, a, b, "z")


def test_what_cannot_be_averaged_is_refused(tiny_llava, shapes_questions, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the data set is empty"):
        collect_means(tiny_llava, [])
    with pytest.raises(InputError, match="is no point of a decoder layer"):
        collect_means(tiny_llava, shapes_questions[:1], "vision_projector.hook_out")
    with pytest.raises(InputError, match="is made from other points"):
        collect_means(tiny_llava, shapes_questions[:1], "pattern")
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="does not hold means of this format"):
        Means.load(tmp_path / "x.safetensors")


def test_sums_come_back_from_where_the_model_is(tiny_llava, shapes_questions) -> None:
    here = collect_means(tiny_llava, shapes_questions[:4], "z", 2, "image", batch_size=3)
    there = collect_means(tiny_llava, shapes_questions[:4], "z", 2, "image", batch_size=3, remote="local")
    assert torch.equal(there["z", 2], here["z", 2])
    edit = Steer(torch.ones(tiny_llava.cfg.d_model), 2, 0.5, "last")
    prompt = tiny_llava.prompt(shapes_questions[0])
    shipped = tiny_llava.run_with_hooks(prompt, interventions=edit, remote="local")
    assert torch.equal(shipped, tiny_llava.run_with_hooks(prompt, interventions=edit))

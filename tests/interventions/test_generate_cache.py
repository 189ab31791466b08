"""What a generation keeps, against single passes over the prompt and the tokens so far, without a KV cache."""

from __future__ import annotations

import dataclasses

import bounds
import edit_reference as reference
import pytest
import torch

import lostattn as la
from lostattn.errors import InputError
from lostattn.plan.compiling import compile_edits
from lostattn.plan.program import last_step, write
from lostattn.run.local import run_here
from lostattn.run.make_calls import generate_call
from lostattn.run.reading import read

pytestmark = pytest.mark.slow

N_NEW = 4
POINTS = [
    "blocks.2.hook_resid_post",
    "blocks.3.attn.hook_z",
    "blocks.4.attn.hook_attn_scores",
    "blocks.4.attn.hook_pattern",
    "blocks.4.hook_mlp_out",
]


def generated(pair, edit=None, names=POINTS, **keywords):
    """Four tokens, whether the model would end before or not."""
    settings = {"max_new_tokens": N_NEW, "eos_token_id": -1, "names_filter": names, **keywords}
    return pair.model.generate(pair.batch, edit, **settings)


def so_far(pair, generation, i):
    """The prompt with the first ``i`` generated tokens behind it, by the processor's inputs alone."""
    inputs = reference.extended(pair.batch.inputs, generation.tokens[:, :i])
    return dataclasses.replace(pair.model.prompt(inputs=inputs), ids=pair.batch.ids)


def same_point(pair, name, found, expected, whole):
    """As near as two passes may lie; ``whole``: the cache of the single pass, for the size of a pattern's scores."""
    scores = bounds.sized_by(name)
    bounds.close(found, expected, pair.share, size=whole[scores] if scores in whole else expected, of=name)


def real_rows(name, value, real):
    if name.startswith("vision"):
        return value
    return (value.transpose(1, 2) if name.endswith(("hook_pattern", "hook_attn_scores")) else value)[real]


def test_every_point_is_that_of_one_pass_over_all_tokens(pair):
    generation = generated(pair, names=lambda name: True)
    cache = generation.cache
    prompt = cache.prompt
    assert torch.equal(prompt.inputs["input_ids"], generation.sequences[:, :-1])
    again = pair.model.prompt(inputs=reference.extended(pair.batch.inputs, generation.tokens[:, :-1]))
    for name, value in again.inputs.items():
        assert torch.equal(prompt.inputs[name], value), name
    _, single = pair.model.run_with_cache(again)
    assert tuple(cache) == tuple(single) == pair.model.hook_names
    real = again.token_map.real
    for name in cache:
        same_point(pair, name, real_rows(name, cache[name], real), real_rows(name, single[name], real), single)
    chosen = cache["hook_unembed"][:, pair.batch.n_pos - 1 :].argmax(-1)
    assert torch.equal(chosen, generation.tokens)


# The edit in the generation; the same in a single pass, of the rows that were last at their step; the first step.
CASES = {
    "knocked out": (
        la.KnockOut("last", "image", layers=[1, 2]),
        lambda rows: la.KnockOut(rows, "image", layers=[1, 2]),
        0,
    ),
    "replaced": (
        la.ReplaceAttention(la.Uniform(), layers=[1, 4]),
        lambda rows: la.ReplaceAttention(la.Uniform(), layers=[1, 4], queries=rows),
        0,
    ),
    "while decoding": (
        la.Ablate("mlp", layers=[1], positions="last", steps="decode"),
        lambda rows: la.Ablate("mlp", layers=[1], positions=rows),
        1,
    ),
    "from the second step": (
        la.Steer(torch.linspace(-1, 1, 128), layers=1, positions="last", steps=(2, None)),
        lambda rows: la.Steer(torch.linspace(-1, 1, 128), layers=1, positions=rows),
        2,
    ),
    "several": (
        la.Ablate("head", layers=[2], heads=[1], positions="last") + la.ScaleAttention(0.5, queries="last"),
        lambda rows: la.Ablate("head", layers=[2], heads=[1], positions=rows) + la.ScaleAttention(0.5, queries=rows),
        0,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_step_is_a_single_pass_under_the_same_edit(pair, case):
    edit, under, first = CASES[case]
    generation = generated(pair, edit)
    plain = generated(pair)
    for i, step in enumerate(generation.steps):
        prompt = so_far(pair, generation, i)
        rows = torch.zeros(prompt.n_pos, dtype=torch.bool)
        rows[pair.batch.n_pos - 1 + first :] = True
        _, single = pair.model.run_with_cache(prompt, POINTS, under(rows) if rows.any() else None)
        for name in POINTS:
            square = name.endswith(("pattern", "attn_scores"))
            row = single[name][:, :, -1] if square else single[name][:, -1]
            same_point(pair, name, step[name], row, single)
    tokens = generation.steps[first].cache.prompt.inputs["input_ids"][:, : pair.batch.n_pos + first]
    if torch.equal(tokens, plain.sequences[:, : tokens.shape[1]]):
        edited, untouched = (kept.steps[first]["resid_post", 2] for kept in (generation, plain))
        assert bounds.moved(edited, untouched, pair.share, times=100)


def test_a_pattern_whose_keys_change_between_steps(pair):
    """Keys without rotation at the prompt's pass alone: the KV cache holds the rotated ones, which later rows read."""
    edit = la.RemoveRotary(layers=[1])
    names = [f"blocks.1.attn.hook_{what}" for what in ("pattern", "attn_scores", "rot_q")]
    generation = generated(pair, edit, names)
    n = pair.batch.n_pos
    _, at_prompt = pair.model.run_with_cache(pair.batch, names, edit)
    real = pair.batch.token_map.real
    own = generation.cache["pattern", 1][:, :, :n, :n]
    same_point(pair, names[0], own.transpose(1, 2)[real], at_prompt["pattern", 1].transpose(1, 2)[real], at_prompt)
    _, rotated = pair.model.run_with_cache(generation.cache.prompt, [*names, "blocks.1.attn.hook_rot_k"])
    for step in generation.steps[1:]:  # layer 1 is handed what it would be without the edit, which is in layer 1
        row = rotated["pattern", 1][:, :, step.row, : step.row + 1]
        same_point(pair, names[0], step["pattern", 1], row, rotated)
    turned, others = generation.cache["rot_q", 1], rotated["rot_q", 1]
    assert bounds.moved(turned[:, :n], others[:, :n], pair.share, times=1e3)
    same_point(pair, names[-1], turned[:, n:], others[:, n:], rotated)


def test_only_what_was_asked_for_is_held(pair):
    generation = generated(pair, names=["blocks.2.hook_resid_post"])
    batch, n = pair.batch.batch, pair.batch.n_pos + N_NEW - 1
    assert list(generation.cache) == ["blocks.2.hook_resid_post"]
    assert generation.cache.nbytes == batch * n * 128 * 4
    pattern = generated(pair, names=["blocks.3.attn.hook_pattern"]).cache
    heads = pair.model.cfg.n_heads + pair.model.cfg.n_key_value_heads
    # Queries, keys, and one byte a cell of the mask.
    assert pattern.nbytes == batch * n * heads * 16 * 4 + batch * n * n
    two = generated(pair, names=["blocks.3.attn.hook_pattern", "blocks.4.attn.hook_pattern"]).cache
    assert two.nbytes == 2 * batch * n * heads * 16 * 4 + batch * n * n  # layers share the mask
    call = generate_call(pair.model, pair.batch, None, N_NEW, ["blocks.3.attn.hook_rot_k"], eos_token_id=-1)
    steps = [step["blocks.3.attn.hook_rot_k"] for step in run_here(pair.model.nn, call.plain())["steps"]]
    own = batch * pair.model.cfg.n_key_value_heads * 16 * 4  # a step holds its own key, not those that it was handed
    assert [key.untyped_storage().nbytes() for key in steps[1:]] == [own] * (N_NEW - 1)
    half = generated(pair, names=["blocks.2.hook_resid_post"], dtype=torch.float16)
    assert half.cache["resid_post", 2].dtype == torch.float16
    nothing = generated(pair, names=None)
    assert nothing.cache is None and torch.equal(nothing.sequences, generation.sequences)
    for ask in (lambda: nothing.steps, lambda: nothing.image_attention()):
        with pytest.raises(InputError, match="this generation kept nothing; say what to keep"):
            ask()


def test_an_item_that_ended_is_padding_from_there_on(pair):
    free = generated(pair)
    end = int(free.tokens[0, 0])
    generation = generated(pair, eos_token_id=end)
    alive = torch.stack([(own == end).int().cumsum(0).roll(1) == 0 for own in generation.tokens])
    alive[:, 0] = True
    assert torch.equal(generation.alive, alive)
    assert alive[0].tolist() == [True] + [False] * (alive.shape[1] - 1) and alive[:, -1].any()
    prompt = generation.cache.prompt
    n = pair.batch.n_pos
    assert torch.equal(prompt.token_map["answer"][:, n:], alive[:, :-1])
    assert torch.equal(prompt.token_map["padding"][:, n:], ~alive[:, :-1])
    assert torch.equal(prompt.inputs["attention_mask"][:, n:].bool(), alive[:, :-1])
    assert len(generation.image_attention([4]).tokens) == 1
    alone = generation.cache.apply_slice_to_batch_dim([0])
    assert alone.prompt.str_tokens[0][-1] == generation.str_tokens[0][0]  # without what it was filled up with
    _, single = pair.model.run_with_cache(prompt, POINTS)
    for name in POINTS:
        found, expected = (real_rows(name, kept[name], prompt.token_map.real) for kept in (generation.cache, single))
        same_point(pair, name, found, expected, single)


def test_pictures_are_seen_before_anything_is_embedded(pair):
    """transformers looks at the pictures before the prompt's pass of a generation begins, and after it in a forward."""
    names = ["hook_embed", "vision_projector.hook_out"]
    both = generated(pair, names=names).cache
    _, single = pair.model.run_with_cache(both.prompt, names)
    for name in names:
        same_point(pair, name, both[name], single[name], single)
    seen = generated(pair, names="vision_projector.hook_out")
    assert list(seen.cache) == ["vision_projector.hook_out"] and seen.tokens.shape[1] == N_NEW
    with pytest.raises(InputError, match="was computed at the prompt alone"):
        seen.steps[1]["vision_projector.hook_out"]


def test_a_cache_of_fixed_length_gives_the_same(pair):
    """Its keys have room for tokens to come, which is cut off."""
    names = [*POINTS, "blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_pattern", "blocks.2.attn.hook_rot_k"]
    edit = la.ScaleAttention(0.5, queries="last", layers=[4])
    grown, fixed = (generated(pair, edit, names, cache_implementation=kind) for kind in ("dynamic", "static"))
    real = grown.cache.prompt.token_map.real
    for name in names:
        found, expected = (real_rows(name, kept.cache[name], real) for kept in (fixed, grown))
        same_point(pair, name, found, expected, grown.cache)


def test_passes_that_are_not_one_a_token_are_refused(pair):
    call = generate_call(pair.model, pair.batch, None, N_NEW, POINTS, eos_token_id=-1)
    raw = run_here(pair.model.nn, call.plain())
    with pytest.raises(InputError, match="4 tokens were generated in 3 passes"):
        read(call.reading, pair.model, {**raw, "steps": raw["steps"][:-1]}, call.prompt)


def test_a_program_ends_with_its_last_edit(pair):
    def until(edit, names=()):
        edits = compile_edits(pair.model, edit, pair.batch)
        return last_step(write(pair.model.sites, pair.model.operations, names, edits, generates=True), edits)

    assert until(la.Ablate("mlp", steps="prefill")) == 1
    assert until(la.Ablate("mlp", steps=(2, 3)) + la.Ablate("attn", steps="prefill")) == 3
    assert until(la.Ablate("mlp", steps="decode")) is None
    assert until(la.Ablate("mlp", steps="prefill"), ["blocks.0.hook_resid_pre"]) is None
    assert until(None, ["blocks.1.attn.hook_pattern"]) is None
    assert until(None, ["vision_projector.hook_out"]) == 1


def test_what_each_token_looked_at(pair):
    cut = la.KnockOut("last", "image:0", layers=[2])
    generation = generated(pair, cut, names=lambda name: name.endswith("hook_pattern"))
    item = next(i for i, n in enumerate(pair.batch.token_map.n_images) if n == 2)
    seen = generation.image_attention([1, -3], item=item, image=1)
    columns = (pair.batch.token_map["image:1"][item]).nonzero().flatten()
    for i, layer in enumerate((1, 3)):
        for t in range(N_NEW):
            row = generation.cache["pattern", layer][item, :, pair.batch.n_pos - 1 + t]
            assert torch.equal(seen.values[i, :, t], row[:, columns])
    assert seen.layers == (1, 3) and seen.tokens == generation.str_tokens[item]
    labels = seen.labels
    grid = pair.batch.token_map.grids[item][1]
    assert labels["token"] == list(seen.tokens) and labels["patch"][grid.cols] == (1, 0)
    assert [len(labels[axis]) for axis in ("layer", "head", "token", "patch")] == list(seen.values.shape)
    bounds.close(seen.patches(3, [0, 5]), seen.values[1, [0, 5]].mean(0), bounds.sums(2))
    table = seen.table()
    third = table[(table.step == 2) & (table.layer == 3) & (table["head"] == 4)].iloc[0]
    bounds.close(third.share, float(seen.values[1, 4, 2].sum()), bounds.sums(len(columns)))
    assert third.row * grid.cols + third.column == int(seen.values[1, 4, 2].argmax())
    shares = generation.image_attention(item=item).table().groupby("layer").share.max()
    assert shares[2] == 0 and (shares.drop(2) > 0).all()


def test_the_strip_of_pictures(pair):
    generation = generated(pair, names=["blocks.3.attn.hook_pattern"])
    figure = generation.image_attention().figure(heads=2, marks=[(1, 2, 9, 8)])
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 1 + N_NEW and panels[0].get_title() == "picture"
    values = generation.image_attention().patches(heads=2)
    for axes, own, token in zip(panels[1:], values, generation.str_tokens[0], strict=True):
        assert axes.get_title() == f"{token.strip() or repr(token)}: {100 * float(own.sum()):.0f} %"
        drawn = torch.as_tensor(axes.collections[0].get_array())
        assert torch.equal(drawn.float(), own)
        assert axes.collections[0].get_clim() == (0.0, float(values.max()))
        assert [patch.get_bbox().bounds for patch in axes.patches] == [(1.0, 2.0, 8.0, 6.0)] * 2


def test_what_is_refused(pair):
    generation = generated(pair, names=["blocks.3.attn.hook_pattern"])
    for keywords, message in (
        ({"layers": 2}, r"layers is 2, and the pattern was kept of the layers \[3\]"),
        ({"layers": []}, r"layers is \[\]"),
        ({"item": 4}, "item is 4 and image 0; the items hold"),
        ({"image": 1}, "item is 0 and image 1"),
    ):
        with pytest.raises(InputError, match=message):
            generation.image_attention(**keywords)
    with pytest.raises(InputError, match=r"heads is 8; there are \[0, 1"):
        generation.image_attention().patches(heads=8)
    with pytest.raises(la.errors.UnknownName, match="was not kept"):
        generation.steps[0]["resid_post", 1]
    with pytest.raises(IndexError):
        generation.steps[N_NEW]
    assert [step.index for step in generation.steps[1:3]] == [1, 2]
    assert repr(generation.steps[-1]).startswith(f"Step {N_NEW - 1}: [")

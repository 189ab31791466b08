"""The attention boundary: kernels on literal matrices, and edits under sdpa against edits of a written-out softmax."""

from __future__ import annotations

import functools
import math

import bounds
import pytest
import torch
from reference import EAGER, logits_of, watched
from tiny import FAMILIES, INPUTS, MAKERS, batched, positioned, rounding, unequal, wrapped
from tiny import bare as bare_model

import lostattn as la
from lostattn.errors import InputError
from lostattn.kernels import attention as kernels
from lostattn.kernels import priors
from lostattn.plan import Edit
from lostattn.run.local import run_edits

INF = float("inf")
T, F = True, False

# --- kernels on literal matrices -------------------------------------------------------------------------------


def visible(mask, causal, rows, n_queries, n_keys, lengths=None):
    found = kernels.visible_keys(mask, causal, torch.tensor(rows), n_queries, n_keys, lengths)
    return found.expand(*found.shape[:2], len(rows), n_keys)


def test_visible_keys_of_causal_attention():
    assert visible(None, True, [0, 2], 3, 3)[0, 0].tolist() == [[T, F, F], [T, T, T]]
    # Two queries after three keys that are in the key-value cache already.
    assert visible(None, True, [0, 1], 2, 5)[0, 0].tolist() == [[T, T, T, T, F], [T, T, T, T, T]]
    # Two queries at the beginning of a cache with room for five.
    assert visible(None, "first", [0, 1], 2, 5)[0, 0].tolist() == [[T, F, F, F, F], [T, T, F, F, F]]
    assert visible(None, False, [1], 3, 3)[0, 0].tolist() == [[T, T, T]]


def test_visible_keys_of_the_masks_that_kernels_take():
    boolean = torch.tensor([[[[T, F, F, F], [T, T, F, F]]], [[[F, F, F, F], [F, T, F, F]]]])
    assert visible(boolean, False, [1], 2, 3)[:, 0].tolist() == [[[T, T, F]], [[F, T, F]]]
    low = torch.finfo(torch.float32).min
    additive = torch.where(boolean, 0.0, low)
    assert torch.equal(visible(additive, False, [0, 1], 2, 3), visible(boolean, False, [0, 1], 2, 3))
    # A finite bias (ALiBi and its kin) hides nothing.
    assert visible(torch.full((1, 2, 2, 2), -5.0), False, [0, 1], 2, 2).all()
    half = torch.where(boolean, 0.0, torch.finfo(torch.bfloat16).min).to(torch.bfloat16)
    assert torch.equal(visible(half, False, [0, 1], 2, 3), visible(boolean, False, [0, 1], 2, 3))
    # Flash attention is given the padding mask alone.
    padding = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert visible(padding, True, [0, 1, 2], 3, 3)[:, 0].tolist() == [
        [[F, F, F], [F, T, F], [F, T, T]],
        [[T, F, F], [T, T, F], [T, T, T]],
    ]


def test_visible_keys_of_a_rule_that_flex_attention_is_given():
    class Rule:
        shape = (2, 1, 3, 4)

        @staticmethod
        def mask_mod(b, h, q, k):
            return (k <= q) & (k >= b)

    assert visible(Rule, False, [0, 2], 3, 4)[:, 0].tolist() == [
        [[T, F, F, F], [T, T, T, F]],
        [[F, F, F, F], [F, T, T, F]],
    ]


def test_visible_keys_of_windows():
    found = visible(None, False, [0, 2, 4], 5, 5, torch.tensor([2, 3]))[0, 0]
    assert found.tolist() == [[T, T, F, F, F], [F, F, T, T, T], [F, F, T, T, T]]


def test_call_arguments_by_place_and_by_name():
    class Module:
        is_causal = True

    module, q, kv = Module(), torch.zeros(1, 2, 3, 4), torch.zeros(1, 1, 3, 4)
    query, key, value, mask, scaling, causal = kernels.call_arguments((module, q, kv, kv, None), {"scaling": 0.25})
    assert query is q and key is kv and value is kv and mask is None and scaling == 0.25 and causal
    named = {"query": q, "key": kv, "value": kv, "attention_mask": torch.ones(1, 1, 3, 3, dtype=torch.bool)}
    *_, scaling, causal = kernels.call_arguments((module,), named)
    assert scaling == 0.5 and not causal  # 1 / √4; a mask of cells says all
    assert kernels.call_arguments((module, q, kv, kv, torch.ones(1, 3)), {})[-1]  # a padding mask does not
    assert not kernels.call_arguments((module, q, kv, kv, None), {"is_causal": False})[-1]
    assert not kernels.call_arguments((module, q[:, :, :1], kv, kv, None), {})[-1]  # one row sees all there is
    assert kernels.call_arguments((module, q[:, :, :2], kv, kv, None), {})[-1] == "first"  # as sdpa counts


def test_scores_and_pattern_by_hand_with_grouped_heads():
    # Four query heads of width one on two key heads: heads 0 and 1 read key head 0, heads 2 and 3 key head 1.
    query = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1).expand(1, 4, 2, 1)
    key = torch.tensor([[1.0, 5.0], [10.0, 20.0]]).reshape(1, 2, 2, 1)
    scores, seen = kernels.attention_scores(query, key, None, True, 0.5, torch.tensor([0, 1]))
    assert scores[0].tolist() == [
        [[0.5, -INF], [0.5, 2.5]],
        [[1.0, -INF], [1.0, 5.0]],
        [[15.0, -INF], [15.0, 30.0]],
        [[20.0, -INF], [20.0, 40.0]],
    ]
    assert seen[0, 0].tolist() == [[T, F], [T, T]]
    pattern = kernels.softmax_rows(scores)
    share = 1 / (1 + math.exp(2.0))
    bounds.close(pattern[0, 0], torch.tensor([[1.0, 0.0], [share, 1 - share]]), bounds.sums(2))
    only, _ = kernels.attention_scores(query, key, None, True, 0.5, torch.tensor([1]))
    assert torch.equal(only, scores[:, :, 1:])


def test_scores_take_a_bias_but_not_what_stands_for_minus_infinity():
    query, key = torch.ones(1, 1, 2, 1), torch.ones(1, 1, 3, 1)
    bias = torch.tensor([[[[0.5, torch.finfo(torch.float32).min, -1.0], [0.0, 2.0, 0.0]]]])
    scores, _ = kernels.attention_scores(query, key, bias, False, 1.0, torch.tensor([0, 1]))
    assert scores[0, 0].tolist() == [[1.5, -INF, 0.0], [1.0, 3.0, 1.0]]


def test_scores_of_half_precision_are_made_in_single():
    query = torch.tensor([[[[1.0, 1 / 256]]]], dtype=torch.bfloat16)
    scores, _ = kernels.attention_scores(query, query, None, False, 1.0, torch.tensor([0]))
    assert scores.dtype == torch.float32 and scores.item() == 1 + 2**-16


def test_a_row_that_sees_nothing_is_zero():
    rows = kernels.softmax_rows(torch.tensor([[[[-INF, -INF], [0.0, -INF]]]]))
    assert rows[0, 0].tolist() == [[0.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("of", ["keys", "values"])
def test_products_with_long_keys_of_another_dtype_are_made_by_parts(of):
    n_keys = (1 << 20) // (64 * 3) + 5
    inner, columns = (64, n_keys) if of == "keys" else (n_keys, 64)
    right = torch.randn(1, 3, 1, inner, columns, generator=torch.Generator().manual_seed(3)).bfloat16()
    left = torch.randn(1, 3, 2, 2, inner, generator=torch.Generator().manual_seed(4))
    found = kernels.product(left, right)
    assert right.numel() > 1 << 20 and found.dtype == torch.float32
    exact = left.double() @ right.double()
    plain = left @ right.float()  # of the same terms, in one go
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=bounds.beside(plain, exact))
    short = right[..., :9]
    assert torch.equal(kernels.product(left, short), left @ short.float())  # in one go


def test_mixed_values_by_hand_with_grouped_heads():
    pattern = torch.tensor([[[[0.5, 0.5]], [[1.0, 0.0]], [[0.0, 1.0]], [[2.0, 1.0]]]])  # four heads, one row
    value = torch.tensor([[[[2.0], [4.0]], [[10.0], [100.0]]]])  # two key heads of two keys
    assert kernels.mixed_values(pattern, value).tolist() == [[[[3.0], [2.0], [100.0], [120.0]]]]


def test_positions_carried_over_to_a_step():
    mask = torch.tensor([[T, F, T], [F, F, T]])
    assert torch.equal(kernels.mask_at_step((mask, False), 0, 3), mask)
    assert kernels.mask_at_step((mask, False), 2, 1).tolist() == [[F], [F]]
    assert kernels.mask_at_step((mask, True), 2, 1).tolist() == [[T], [T]]
    assert kernels.mask_at_step((mask, True), 2, 5).tolist() == [[T, F, T, T, T], [F, F, T, T, T]]
    assert kernels.mask_at_step((mask, False), 1, 2).tolist() == [[T, F], [T, F]]


def test_the_keys_of_a_window_are_the_last_ones_and_room_for_more_is_not_chosen():
    mask = torch.tensor([[T, F, T], [F, F, T]])
    # Two steps after the prompt, a window of four has let go of the first position.
    assert kernels.mask_at_step((mask, False), 2, 4).tolist() == [[F, T, F, F], [F, T, F, F]]
    # A cache of fixed length holds seven keys, of which five are there by now.
    assert kernels.mask_at_step((mask, True), 2, 7).tolist() == [[T, F, T, T, T, F, F], [F, F, T, T, T, F, F]]


def test_values_laid_onto_the_keys_of_a_step():
    values = torch.tensor([[[[5.0, 6.0, 7.0]]]])
    assert priors.on_keys(values, 0, 3).flatten().tolist() == [5, 6, 7]
    assert priors.on_keys(values, 2, 5).flatten().tolist() == [5, 6, 7, 0, 0]
    assert priors.on_keys(values, 2, 4).flatten().tolist() == [6, 7, 0, 0]
    assert priors.on_keys(values, 2, 7).flatten().tolist() == [5, 6, 7, 0, 0, 0, 0]


def test_wanted_rows_are_those_of_any_edit_and_any_item():
    first = {"queries": (torch.tensor([[T, F, F, F], [F, F, T, F]]), False)}
    second = {"queries": (torch.tensor([[F, F, F, F], [F, F, F, T]]), True)}
    assert kernels.wanted_rows([first], 0, 4, "cpu").tolist() == [0, 2]
    assert kernels.wanted_rows([first, second], 0, 4, "cpu").tolist() == [0, 2, 3]
    assert kernels.wanted_rows([first], 2, 1, "cpu").tolist() == []
    assert kernels.wanted_rows([first, second], 2, 1, "cpu").tolist() == [0]
    assert kernels.wanted_rows([first, {"queries": None}], 0, 4, "cpu").tolist() == [0, 1, 2, 3]


def test_selection_is_queries_and_keys_and_heads_where_visible():
    seen = torch.tensor([[[[T, T, F], [T, T, T]]]])
    rows = torch.tensor([1, 2])
    edit = {
        "queries": (torch.tensor([[F, T, T], [F, F, T]]), False),
        "keys": (torch.tensor([[F, T, T], [T, F, T]]), False),
        "heads": (1,),
    }
    cells = kernels.selection(edit, seen, rows, 2, 0, 3)
    assert cells[:, 0].sum() == 0
    assert cells[:, 1].tolist() == [[[F, T, F], [F, T, T]], [[F, F, F], [T, F, T]]]
    assert torch.equal(kernels.selection(dict.fromkeys(edit), seen, rows, 2, 0, 3), seen)


def edit_of(kernel):
    return {"kernel": kernel, "params": {}, "queries": None, "keys": None, "heads": None}


def test_edits_run_in_order_scores_first_and_a_no_op_leaves_exactly_nothing():
    scores = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(1, 1, 5, 7, dtype=torch.bool)
    rows = torch.arange(5)
    log: list[str] = []

    def noting(name, change):
        def kernel(x, cells, here):
            log.append(name)
            return change(x)

        return edit_of(kernel)

    def run(score_edits, pattern_edits):
        return kernels.edited_rows(scores, seen, rows, score_edits, pattern_edits, 5, {"step": 0})

    _, before, after = run([noting("scores", torch.clone)], [noting("pattern", torch.clone)])
    assert torch.equal(before, after) and torch.equal(before, torch.softmax(scores, -1))
    assert log == ["scores", "pattern"]
    new, before, after = run(
        [noting("b", lambda x: x * 2)], [noting("c", lambda x: x + 1), noting("d", lambda x: x * 3)]
    )
    assert log[2:] == ["b", "c", "d"]
    assert torch.equal(new, scores * 2)
    assert torch.equal(after, (torch.softmax(scores * 2, -1) + 1) * 3)
    assert torch.equal(before, torch.softmax(scores, -1))


def test_added_differences_change_the_rows_that_they_are_for():
    output = torch.zeros(1, 3, 2, 1) + 7.0
    value = torch.tensor([[[[1.0], [10.0]], [[100.0], [1000.0]]]])
    difference = torch.tensor([[[[0.5, -0.5]], [[0.0, 1.0]]]])
    changed = kernels.add_difference(output.clone(), difference, value, torch.tensor([1]))
    assert changed[0, :, :, 0].tolist() == [[7.0, 7.0], [2.5, 1007.0], [7.0, 7.0]]
    same = kernels.add_difference(output.clone(), torch.zeros(1, 2, 1, 2), value, torch.tensor([1]))
    assert torch.equal(same, output)
    learned = output.clone().requires_grad_()
    assert torch.equal(kernels.add_difference(learned, difference, value, torch.tensor([1])).detach(), changed)
    assert torch.equal(learned.detach(), output)


# --- edits under sdpa against edits of the written-out softmax -------------------------------------------------

LAYERS = {"llava": 4, "qwen": 3}
DECODER = "model.language_model.layers.{}.self_attn"
TOWER = {"llava": "model.vision_tower.encoder.layers.{}.self_attn", "qwen": "model.visual.blocks.{}.attn"}
# Windows of at most 4 × 4 patches in pictures of 4 × 6, 8 × 10 and 6 × 4.
WINDOWS = 2 + 6 + 2
PREFIX = {"llava": "vision_encoder.encoder_layers", "qwen": "vision_encoder.blocks"}


@functools.cache
def batch_of(family):
    inputs = batched(family, unequal(family))
    return inputs, wrapped(family).prompt(inputs=inputs), inputs["attention_mask"].bool()


def sharper(pattern, _=None):
    """Every row sharper, and still summing to one."""
    squared = pattern**2
    return squared / squared.sum(-1, keepdim=True).clamp_min(1e-30)


def softer(scores, _=None):
    return 0.5 * scores


def shifted(pattern, _=None):
    """The last row moved one key on, among its last five keys (which are no padding in any item)."""
    pattern[..., -1, -5:] = pattern[..., -1, -5:].roll(1, dims=-1)
    return pattern


EDITS = {
    "pattern, all rows": ("hook_pattern", sharper),
    "scores, all rows": ("hook_attn_scores", softer),
    "pattern, last row": ("hook_pattern", shifted),
}


def check(family, mine, theirs, untouched, real):
    share = rounding(family)
    # A thousandth of the edit would be seen.
    assert bounds.moved(theirs[real], untouched[real], share, times=1e3), "the edit does too little to be compared"
    bounds.close(mine[real], theirs[real], share)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_in_every_decoder_layer(family, edit, kernel):
    point, function = EDITS[edit]
    inputs, prompt, real = batch_of(family)
    hooks = [(f"blocks.{i}.attn.{point}", lambda x, hook: function(x)) for i in range(LAYERS[family])]
    mine = wrapped(family, kernel).run_with_hooks(prompt, hooks)
    functions = (function, None) if point == "hook_attn_scores" else (None, function)
    edits = {DECODER.format(i): functions for i in range(LAYERS[family])}
    reference = bare_model(family, EAGER)
    theirs = logits_of(reference, positioned(family, inputs), edits)
    check(family, mine, theirs, logits_of(reference, positioned(family, inputs)), real)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_in_every_read_vision_layer(family, edit):
    point, function = EDITS[edit]
    inputs, prompt, real = batch_of(family)
    n = wrapped(family).architecture.vision.n_read
    hooks = [(f"{PREFIX[family]}.{i}.attn.{point}", lambda x, hook: function(x)) for i in range(n)]
    mine = wrapped(family).run_with_hooks(prompt, hooks)
    functions = (function, None) if point == "hook_attn_scores" else (None, function)
    edits = {TOWER[family].format(i): functions for i in range(n)}
    if family == "qwen" and edit == "pattern, last row":  # it lies in the last window, or in the last image
        for i, last in enumerate((WINDOWS - 1, 2, WINDOWS - 1, 2)):
            only = functools.partial(lambda last, x, number: function(x) if number == last else x, last)
            edits[TOWER[family].format(i)] = (None, only)
    reference = bare_model(family, EAGER)
    theirs = logits_of(reference, positioned(family, inputs), edits)
    check(family, mine, theirs, logits_of(reference, positioned(family, inputs)), real)


@pytest.mark.parametrize("layer", [0, 3])
def test_an_edit_across_the_windows_of_a_tower(layer):
    """Weights moved seven patches on, over the windows' bounds: what is read is the edited pattern times all values."""
    inputs, prompt, real = batch_of("qwen")
    name = f"vision_encoder.blocks.{layer}.attn.hook_pattern"
    mine = wrapped("qwen").run_with_hooks(prompt, [(name, lambda x, hook: x.roll(7, dims=-1))])
    model = bare_model("qwen", EAGER)
    path = f"model.visual.blocks.{layer}.attn"

    def rewrite(module, args):
        calls = seen.calls[path]
        values = torch.cat([call["value"] for call in calls], dim=2)[0]
        heads = []
        for h in range(3):
            whole = torch.block_diag(*(call["pattern"][0, h] for call in calls))
            heads.append(whole.roll(7, dims=-1) @ values[h])
        return (torch.stack(heads, dim=1).flatten(-2),)

    untouched = logits_of(model, inputs)
    handle = model.get_submodule(f"{path}.proj").register_forward_pre_hook(rewrite)
    try:
        with watched(model) as seen:
            theirs = model(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    assert len(seen.calls[path]) == (3 if layer == 3 else WINDOWS)
    check("qwen", mine, theirs, untouched, real)


def uniform_over_the_image(inputs, family, heads, last_only):
    """By definition: on the chosen heads, each row's mass on the image keys that it sees, shared out evenly."""
    image = inputs["input_ids"] == {"llava": 99, "qwen": 100}[family]

    def function(pattern, _=None):
        cells = (pattern > 0) & image[:, None, None, :]
        for head in range(pattern.shape[1]):
            if head not in heads:
                cells[:, head] = False
        if last_only:
            cells[:, :, :-1] = False
        mass = (pattern * cells).sum(-1, keepdim=True)
        return torch.where(cells, mass / cells.sum(-1, keepdim=True).clamp_min(1), pattern)

    return function


@pytest.mark.parametrize("queries", ["last", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_intervention_on_some_heads_and_layers(family, queries):
    """Under grouped-query attention too: query heads 1 and 3 share their keys with heads that are left alone."""
    inputs, prompt, real = batch_of(family)
    edit = la.ReplaceAttention(la.Uniform(), queries=queries, keys="image", heads=[1, 3], layers=[0, 2])
    mine = wrapped(family).run_with_cache(prompt, "hook_unembed", edit)[0]
    function = uniform_over_the_image(inputs, family, {1, 3}, queries == "last")
    edits = {DECODER.format(i): (None, function) for i in (0, 2)}
    reference = bare_model(family, EAGER)
    theirs = logits_of(reference, positioned(family, inputs), edits)
    check(family, mine, theirs, logits_of(reference, positioned(family, inputs)), real)


@pytest.mark.parametrize("family", FAMILIES)
def test_knocked_out_edges(family):
    inputs, prompt, real = batch_of(family)
    image = inputs["input_ids"] == {"llava": 99, "qwen": 100}[family]

    def function(scores, _=None):
        scores[:, :, -1] = scores[:, :, -1].masked_fill(image[:, None], -INF)
        return scores

    mine = wrapped(family).run_with_cache(prompt, "hook_unembed", la.KnockOut("last", "image", layers=[1]))[0]
    reference = bare_model(family, EAGER)
    theirs = logits_of(reference, positioned(family, inputs), {DECODER.format(1): (function, None)})
    check(family, mine, theirs, logits_of(reference, positioned(family, inputs)), real)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_as_near_to_the_truth_as_eager_is(family):
    """In bfloat16 two kernels differ by rounding; neither may be further from float32 than twice the other."""
    inputs, prompt, real = batch_of(family)
    inputs = positioned(family, inputs)
    edits = {DECODER.format(i): (None, sharper) for i in range(LAYERS[family])}
    truth = logits_of(bare_model(family, EAGER), inputs, edits)[real]
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    eager = logits_of(MAKERS[family](attn_implementation=EAGER, dtype=torch.bfloat16), half, edits)[real].float()
    model = la.load(MAKERS[family](dtype=torch.bfloat16), selftest=False)
    hooks = [(f"blocks.{i}.attn.hook_pattern", lambda x, hook: sharper(x)) for i in range(LAYERS[family])]
    mine = model.run_with_hooks(prompt, hooks)
    assert mine.dtype == torch.bfloat16
    untouched = model.forward(prompt)[real].float()
    error = (mine[real].float() - truth).norm()
    assert error < 2 * (eager - truth).norm()
    assert error < 0.2 * (untouched - truth).norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_steps_on_a_key_value_cache(family):
    """Generation under an edit equals transformers' own generation with the edit in its softmax, at every step."""
    inputs, prompt, _ = batch_of(family)
    n = inputs["input_ids"].shape[1]
    image = inputs["input_ids"] == {"llava": 99, "qwen": 100}[family]

    def function(pattern, _=None):
        more = torch.zeros(len(image), pattern.shape[-1] - n, dtype=torch.bool)
        cells = torch.cat([image, more], dim=1)[:, None]
        mass = (pattern[:, :, -1] * cells).sum(-1, keepdim=True)
        pattern[:, :, -1] = torch.where(cells, mass / cells.sum(-1, keepdim=True), pattern[:, :, -1])
        return pattern

    edit = la.ReplaceAttention(la.Uniform())
    mine = wrapped(family).generate(prompt, interventions=edit, max_new_tokens=6)
    untouched = wrapped(family).generate(prompt, max_new_tokens=6)
    model = bare_model(family, EAGER)
    with watched(model, {DECODER.format(i): (None, function) for i in range(LAYERS[family])}) as seen:
        theirs = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert seen.calls[DECODER.format(0)][-1]["pattern"].shape[2] == 1  # the steps did run on a cache
    assert torch.equal(mine.sequences, theirs)
    assert not torch.equal(untouched.sequences, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_last_row_edit_leaves_the_other_rows_as_they_were(family):
    _, prompt, _ = batch_of(family)
    model, last = wrapped(family), LAYERS[family] - 1
    before, after = (
        model.run_with_cache(prompt, [f"blocks.{last}.hook_resid_post"], edit)[1]["resid_post", last]
        for edit in (None, la.ReplaceAttention(la.Uniform(), layers=[last]))
    )
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


# --- nothing is edited in vain ---------------------------------------------------------------------------------


def same(x, here):
    return x.clone()


def same_rows(x, cells, here):
    return x.clone()


def bumped(x, here):
    # Not the same for every component: a LayerNorm that follows would take that away.
    return x * torch.linspace(0.9, 1.1, x.shape[-1]) + 0.05


def bumped_rows(x, cells, here):
    return torch.where(cells, 1.2 * x, x)


def editable(model):
    found = []
    for name in model.hook_names:
        try:
            found.append(model.sites.editable(name))
        except InputError:
            continue
    return found


def at_boundary(name):
    return name.endswith(("hook_pattern", "hook_attn_scores"))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_identity_edits_are_exact_everywhere(family, kernel):
    model = wrapped(family, kernel)
    _, prompt, real = batch_of(family)
    names = editable(model)
    assert len(names) > 110
    before = model.forward(prompt)
    edits = [Edit(name, same_rows if at_boundary(name) else same) for name in names]
    assert torch.equal(run_edits(model, prompt, (), edits)[0][real], before[real])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_editable_point_moves_the_logits(family):
    """Patterns and scores in every layer (TransformerLens edits some of them in vain), the rest in one a tower."""
    model = wrapped(family)
    prompt = model.prompt(inputs=INPUTS[family]())
    before = model.forward(prompt)
    names = [n for n in editable(model) if at_boundary(n) or ".1." in n or not any(c.isdigit() for c in n)]
    assert len(names) >= 50
    still = []
    for name in names:
        after = run_edits(model, prompt, (), [Edit(name, bumped_rows if at_boundary(name) else bumped)])[0]
        if not bounds.moved(after, before, rounding(family)):
            still.append(name)
    assert still == []


def test_a_layer_that_nobody_reads_is_refused():
    model = wrapped("llava")
    prompt = model.prompt(inputs=INPUTS["llava"]())
    with pytest.raises(InputError, match="comes after the layer whose output this model reads: an edit there would ch"):
        model.run_with_hooks(prompt, [("vision_encoder.encoder_layers.2.attn.hook_pattern", lambda x, hook: x)])
    # Reading it is fine.
    _, cache = model.run_with_cache(prompt, "vision_encoder.encoder_layers.2.attn.hook_pattern")
    assert cache["vision_encoder.encoder_layers.2.attn.hook_pattern"].shape == (1, 3, 26, 26)

"""The stream taken apart: sums of parts, labels, slices, and TransformerLens' own numbers."""

from __future__ import annotations

import bounds
import pytest
import torch
from bounds import close
from tiny import FAMILIES, INPUTS, batched, rounding, unequal, wrapped

from lostattn import Ablate
from lostattn.architecture.norms import gain
from lostattn.errors import InputError


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def run(family):
    """``(model, prompt, logits, cache)`` of a batch of three prompts of unequal lengths."""
    model = wrapped(family)
    prompt = model.prompt(inputs=batched(family, unequal(family)))
    logits, cache = model.run_with_cache(prompt)
    return model, prompt, logits, cache


@pytest.fixture(scope="module")
def share(family):
    """The parts go through the same norm and products as the whole, and add up in another order."""
    return rounding(family)


def real(prompt, value):
    """The values at real positions, of a tensor that ends with [batch, pos, …]."""
    return value[..., prompt.token_map.real, :]


def test_the_parts_add_up_to_the_logits(run, share: float) -> None:
    model, prompt, logits, cache = run
    stack, labels = cache.decompose_resid(return_labels=True, apply_ln=True)
    assert labels[:3] == ["embed", "0_attn_out", "0_mlp_out"]
    assert len(labels) == 1 + 2 * model.cfg.n_layers
    rebuilt = stack.sum(0) @ model.hf.get_output_embeddings().weight.T
    close(real(prompt, rebuilt), real(prompt, logits), share)
    # Leaving any one part out must show.
    for i in range(len(labels)):
        assert (real(prompt, stack[i]) @ cache.W_U.T).abs().max() > 0.01


def test_the_parts_add_up_under_an_intervention(run, share: float) -> None:
    model, prompt, _, _ = run
    logits, cache = model.run_with_cache(prompt, interventions=Ablate("resid", layers=[1], positions="image"))
    rebuilt = cache.decompose_resid(apply_ln=True).sum(0) @ cache.W_U.T
    close(real(prompt, rebuilt), real(prompt, logits), share)


def test_the_embedding_part_holds_the_pictures(run) -> None:
    _, prompt, _, cache = run
    image = prompt.token_map["image"]
    embed = cache.decompose_resid(0)[0]
    assert torch.equal(embed, cache["resid_pre", 0])
    assert not torch.allclose(embed[image], cache["hook_embed"][image], atol=1e-2)


@pytest.mark.parametrize("layer", [1, 2, None])
@pytest.mark.parametrize("mlp_input", [False, True])
def test_parts_of_an_earlier_stream(run, layer: int | None, mlp_input: bool, share: float) -> None:
    _, prompt, _, cache = run
    if layer is None and mlp_input:
        with pytest.raises(InputError, match="layer is None with mlp_input=True; expected 0 to"):
            cache.decompose_resid(layer, mlp_input=True)
        return
    whole = cache["resid_post", -1] if layer is None else cache["resid_mid" if mlp_input else "resid_pre", layer]
    close(real(prompt, cache.decompose_resid(layer, mlp_input).sum(0)), real(prompt, whole), share)
    fine = cache.get_full_resid_decomposition(layer, mlp_input, expand_neurons=True, pos_slice="last")
    last = ("resid_post", -1) if layer is None else ("resid_mid" if mlp_input else "resid_pre", layer)
    close(fine.sum(0), cache.at(last, "last"), share, size=fine.abs().sum(0))  # hundreds of neurons cancel


def test_modes_are_the_updates_of_one_kind(run, share: float) -> None:
    model, _, _, cache = run
    attn, labels = cache.decompose_resid(mode="attn", incl_embeds=False, return_labels=True)
    assert labels == [f"{i}_attn_out" for i in range(model.cfg.n_layers)]
    close(attn[1], cache["attn_out", 1], share)
    mlp, labels = cache.decompose_resid(mode="mlp", incl_embeds=False, return_labels=True)
    assert labels == [f"{i}_mlp_out" for i in range(model.cfg.n_layers)]
    close(mlp[2], cache["mlp_out", 2], share)
    with pytest.raises(InputError, match="expected 'all', 'mlp', 'attn', 'cross_attn', 'between' or 'layer'"):
        cache.decompose_resid(mode="heads")


def test_accumulated_streams_and_their_labels(run, share: float) -> None:
    model, prompt, logits, cache = run
    stack, labels = cache.accumulated_resid(return_labels=True, incl_mid=True, apply_ln=True)
    n = model.cfg.n_layers
    assert labels == [f"{i}_{what}" for i in range(n) for what in ("pre", "mid")] + ["final_post"]
    close(real(prompt, stack[-1] @ cache.W_U.T), real(prompt, logits), share)
    bare = model.hf.get_submodule(model.architecture.final_norm)
    close(real(prompt, stack[3]), real(prompt, bare(cache["resid_mid", 1])), share)
    assert cache.accumulated_resid(2, mlp_input=True, return_labels=True)[1] == ["0_pre", "1_pre", "2_pre", "2_mid"]


def test_heads_add_up_to_attention_and_are_query_heads(run, share: float) -> None:
    model, prompt, _, cache = run
    heads, labels = cache.stack_head_results(return_labels=True, incl_remainder=True)
    n = model.cfg.n_heads
    assert labels[n + 2] == "L1H2" and labels[-1] == "remainder"
    assert len(labels) == n * model.cfg.n_layers + 1
    close(real(prompt, heads.sum(0)), real(prompt, cache["resid_post", -1]), share)
    # By hand: the head's part of z through its own columns of the output map.
    o = model.hf.get_submodule(model.architecture.stack.blocks[1].attn.o)
    d = model.cfg.d_head
    by_hand = cache["z", 1][:, :, 2] @ o.weight[:, 2 * d : 3 * d].T
    close(heads[n + 2], by_hand, share)


@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("apply_ln", [True, False])
def test_the_finest_parts_project_to_the_logits(run, expand: bool, apply_ln: bool, share: float) -> None:
    model, prompt, logits, cache = run
    onto = cache.W_U[[7, 31]].T
    args = {"expand_neurons": expand, "apply_ln": apply_ln, "pos_slice": "last"}
    whole, labels = cache.get_full_resid_decomposition(**args, return_labels=True)
    projected = cache.get_full_resid_decomposition(**args, project_output_onto=onto)
    n, heads = model.cfg.n_layers, model.cfg.n_layers * model.cfg.n_heads
    assert len(labels) == len(whole) == heads + n * (model.cfg.d_mlp if expand else 1) + 2
    assert labels[heads] == ("L0N0" if expand else "0_mlp_out") and labels[-2:] == ["embed", "bias"]
    close(projected, whole @ onto, share)
    single = cache.get_full_resid_decomposition(**args, project_output_onto=onto[:, 1])
    close(single, projected[..., 1], share)
    if apply_ln:
        close(projected.sum(0), logits[:, -1:, [7, 31]], share, size=projected.abs().sum(0))


def test_logit_attributions_add_up(run, share: float) -> None:
    _, prompt, logits, cache = run
    stack = cache.decompose_resid(pos_slice=-1)
    right, wrong = torch.tensor([3, 17, 29]), torch.tensor([40, 41, 42])
    found = cache.logit_attrs(stack, right, wrong, pos_slice=-1)
    rows = torch.arange(3)
    close(found.sum(0), logits[rows, -1, right] - logits[rows, -1, wrong], share, size=found.abs().sum(0))
    every = cache.logit_attrs(cache.decompose_resid(), right)  # one token an item, at every position
    expected = logits.gather(-1, right[:, None, None].expand(-1, logits.shape[1], 1))[..., 0]
    mask = prompt.token_map.real
    close(every.sum(0)[mask], expected[mask], share, size=every.abs().sum(0)[mask])
    one = cache.logit_attrs(stack[:, 1], 17, pos_slice=-1, batch_slice=1, has_batch_dim=True)
    close(one.sum(0), logits[1, -1, 17], share, size=one.abs().sum(0))


def test_bad_tokens_are_refused(run) -> None:
    cache = run[3]
    stack = cache.decompose_resid(pos_slice=-1)
    with pytest.raises(InputError, match="tokens is 'red'; a cache has no tokenizer"):
        cache.logit_attrs(stack, "red", pos_slice=-1)
    with pytest.raises(InputError, match="expected ids from 0 to"):
        cache.logit_attrs(stack, 10_000, pos_slice=-1)
    with pytest.raises(InputError, match=r"tokens of shape \(5,\) do not fit parts of shape"):
        cache.logit_attrs(stack, torch.arange(5), pos_slice=-1)


def test_nothing_drags_a_graph_along(run) -> None:
    cache = run[3]
    stack = cache.get_full_resid_decomposition(pos_slice="last", expand_neurons=False, apply_ln=True)
    assert not stack.requires_grad
    assert not cache.logit_attrs(stack, 5, pos_slice="last").requires_grad
    assert not cache.accumulated_resid(apply_ln=True).requires_grad


def test_stacked_activations(run) -> None:
    model, _, _, cache = run
    stack = cache.stack_activation("z")
    assert stack.shape[0] == model.cfg.n_layers
    assert torch.equal(stack[1], cache["z", 1])
    assert len(cache.stack_activation("normalized", 2, "ln1")) == 2


def test_positions_by_name_follow_each_items_own_padding(run) -> None:
    _, prompt, _, cache = run
    value = cache["resid_post", 1]
    counts = prompt.token_map.real.sum(-1)
    first = torch.stack([value[b, value.shape[1] - counts[b]] for b in range(3)])
    assert torch.equal(cache.at(("resid_post", 1), 0), first)
    picked = cache.at(("resid_post", 1), [-1, 2])
    assert torch.equal(picked[:, 0], value[:, -1])
    third = torch.stack([value[b, value.shape[1] - counts[b] + 2] for b in range(3)])
    assert torch.equal(picked[:, 1], third)
    assert torch.equal(cache.at(("z", 2), "last", heads=3), cache["z", 2][:, -1:, 3])
    row = cache.at(("pattern", 1), -1, heads=[0, 4], keys=slice(-3, None))
    assert torch.equal(row, cache["pattern", 1][:, [0, 4], -1, -3:])


def test_unequal_groups_and_missing_axes_are_refused(run) -> None:
    _, prompt, _, cache = run
    with pytest.raises(InputError, match="positions in the items of this batch; a tensor needs equally many"):
        cache.at(("resid_post", 1), "text")
    with pytest.raises(InputError, match=r"has no axis of heads; leave heads= out"):
        cache.at(("resid_post", 1), "last", heads=0)
    with pytest.raises(InputError, match=r"has no axis of keys; leave keys= out"):
        cache.at(("z", 1), "last", keys="last")
    with pytest.raises(InputError, match="goes by patch"):
        cache.at("vision_projector.hook_out", "last")


@pytest.mark.parametrize("family", FAMILIES)
def test_items_of_a_cache_are_what_each_alone_would_give(family: str) -> None:
    """Every point, the tower's too: a batch's part is the single run's own, at a batch's rounding."""
    model = wrapped(family)
    singles = unequal(family)
    _, whole = model.run_with_cache(model.prompt(inputs=batched(family, singles)))
    for i, single in enumerate(singles):
        _, alone = model.run_with_cache(model.prompt(inputs=single))
        part = whole.apply_slice_to_batch_dim([i])
        assert part.prompt.n_pos == alone.prompt.n_pos
        for name in alone:
            close(part[name], alone[name], rounding(family), size=alone[bounds.sized_by(name)], of=name)
    two = whole.apply_slice_to_batch_dim(slice(1, None))
    assert two.prompt.ids == whole.prompt.ids[1:]
    assert whole.apply_slice_to_batch_dim(2)["resid_post", 0].dim() == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_batch_axis_everything_goes_on(family: str) -> None:
    model = wrapped(family)
    prompt = model.prompt(inputs=INPUTS[family]())
    logits, cache = model.run_with_cache(prompt)
    before = cache["pattern", 1]
    assert cache.remove_batch_dim() is cache
    assert torch.equal(cache["pattern", 1], before[0])
    stack = cache.decompose_resid(pos_slice=-1)
    assert stack.shape == (1 + 2 * model.cfg.n_layers, model.cfg.d_model)
    parts = cache.logit_attrs(stack, 5, pos_slice=-1)
    close(parts.sum(0), logits[0, -1, 5], rounding(family), size=parts.abs().sum(0))
    rows = cache.at(("pattern", 1), "last", heads=1, keys="image")
    image = prompt.token_map["image"][0]
    assert torch.equal(rows, before[0, 1, -1:, image])
    _, batch = model.run_with_cache(model.prompt(inputs=batched(family, unequal(family))), "blocks.1.hook_resid_post")
    with pytest.raises(InputError, match="the batch holds 3 items, so its axis cannot go"):
        batch.remove_batch_dim()


def test_the_gain_of_a_norm_is_seen_from_outside() -> None:
    class OnePlus(torch.nn.RMSNorm):
        def forward(self, x):
            return torch.nn.functional.rms_norm(x, (7,), 1.0 + self.weight, self.eps)

    weight = torch.tensor([0.5, -2.0, 3.0, 0.1, 1.0, 4.0, -0.3])
    layer = torch.nn.LayerNorm(7)
    for norm, expected in (
        (torch.nn.RMSNorm(7, eps=1e-6), weight),
        (OnePlus(7, eps=1e-6), 1 + weight),
        (layer, weight),
    ):
        norm.weight.data = weight.clone()
        if norm is layer:
            layer.bias.data = torch.arange(7.0)
        close(gain(norm), expected, bounds.sums(7))  # a norm of seven values


def test_equal_to_transformer_lens(run, share: float) -> None:
    """On the same weights, with the picture put into TransformerLens' embedding and its norms' weights beside it."""
    model, prompt, _, cache = run
    bridge = model.to_transformer_bridge()
    inputs = dict(prompt.inputs)
    _, theirs = bridge.run_with_cache(inputs.pop("input_ids"), **inputs)
    mask = prompt.token_map.real

    def same(mine, other) -> None:
        (a, mine_labels), (b, their_labels) = mine, other
        assert mine_labels == their_labels
        close(a[:, mask], b[:, mask], share)

    same(cache.accumulated_resid(incl_mid=True, return_labels=True),
         theirs.accumulated_resid(incl_mid=True, return_labels=True))  # fmt: skip
    same(cache.decompose_resid(incl_embeds=False, return_labels=True),
         theirs.decompose_resid(incl_embeds=False, return_labels=True))  # fmt: skip
    same(cache.stack_head_results(2, return_labels=True, incl_remainder=True),
         theirs.stack_head_results(2, return_labels=True, incl_remainder=True))  # fmt: skip
    mine = cache.apply_ln_to_stack(cache.decompose_resid())
    scaled = theirs.apply_ln_to_stack(cache.decompose_resid())
    norm = model.hf.get_submodule(model.architecture.final_norm)
    close(mine[:, mask], (scaled * norm.weight)[:, mask], share)

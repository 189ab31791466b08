"""Ablations on the trained models, against module hooks on the bare ones."""

from __future__ import annotations

from collections.abc import Callable

import bounds
import edit_reference as reference
import pytest
import torch
from torch import Tensor

import lostattn as la

LAYER = 2


def hooked(hf, prompt, what: str, change: Callable[[Tensor], Tensor], layer: int = LAYER) -> Tensor:
    module, port = reference.module_of(hf, layer, what)

    def before(_, args):
        return (change(args[0].unflatten(-1, (8, -1))).flatten(-2), *args[1:])

    def after(_, args, out):
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handle = module.register_forward_pre_hook(before) if port == "input" else module.register_forward_hook(after)
    try:
        return reference.logits(hf, prompt)
    finally:
        handle.remove()


def replacing(prompt, what: str, to: str, positions, heads=None, reference_rows: Tensor | None = None):
    """The change at a point: chosen rows (and heads) become zero, or the mean of the item's real rows."""

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        chosen, real = prompt.token_map[positions], prompt.token_map["all"]
        for b in range(len(x)):
            rows = x[b, real[b]] if reference_rows is None else reference_rows
            new = torch.zeros_like(x[b, 0]) if to == "zero" else rows.mean(0)
            for pos in chosen[b].nonzero().flatten().tolist():
                if heads is None:
                    x[b, pos] = new
                else:
                    x[b, pos, list(heads)] = new[list(heads)]
        return x

    return change


@pytest.mark.parametrize("what", ["attn", "mlp", "head", "resid"])
@pytest.mark.parametrize(
    ("to", "positions"), [("zero", "image"), ("zero", slice(3, 9)), ("mean", "all"), ("mean", "last")], ids=str
)
def test_zero_and_mean(pair, what, to, positions):
    prompt, real = pair.batch, pair.batch.token_map["all"]
    heads = (1, 6) if what == "head" else None
    edit = la.Ablate(what, layers=LAYER, to=to, positions=positions, heads=heads)
    got = pair.model.run_with_hooks(prompt, interventions=edit)
    want = hooked(pair.hf, prompt, what, replacing(prompt, what, to, positions, heads))
    bounds.close(got[real], want[real], pair.share)
    assert bounds.moved(got[real], pair.model(prompt)[real], pair.share)


@pytest.mark.parametrize("what", ["mlp", "head"])
def test_mean_of_a_reference(pair, what):
    shape = (7, 8, 16) if what == "head" else (7, 128)
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    edit = la.Ablate(what, layers=LAYER, to="mean", reference=rows)
    real = pair.batch.token_map["all"]
    want = hooked(pair.hf, pair.batch, what, replacing(pair.batch, what, "mean", "all", None, rows))
    got = pair.model.run_with_hooks(pair.batch, interventions=edit)
    bounds.close(got[real], want[real], pair.share)


@pytest.mark.parametrize("what", ["attn", "mlp", "head", "resid"])
@pytest.mark.parametrize("given", [False, True], ids=["own rows", "reference"])
def test_resample_puts_whole_rows_there(pair, what, given):
    name = la.interventions.ablation.POINTS[what]
    point = f"blocks.{LAYER}.{name}"
    positions = "question"
    _, plain = pair.model.run_with_cache(pair.batch, point)
    rows = torch.randn(5, *plain[point].shape[2:], generator=torch.Generator().manual_seed(1)) if given else None
    edit = la.Ablate(what, layers=LAYER, to="resample", positions=positions, reference=rows, seed=3)
    logits, edited = pair.model.run_with_cache(pair.batch, point, edit)
    chosen, real = pair.batch.token_map[positions], pair.batch.token_map["all"]
    for b in range(len(pair.batch)):
        pool = plain[point][b, real[b]] if rows is None else rows
        for row in edited[point][b, chosen[b]]:
            assert (pool == row).flatten(1).all(-1).any()
        assert len({tuple(r.flatten().tolist()) for r in edited[point][b, chosen[b]]}) > 1
    assert torch.equal(plain[point][~chosen], edited[point][~chosen])
    again = pair.model.run_with_hooks(pair.batch, interventions=edit)
    assert torch.equal(logits, again)
    assert not torch.equal(logits, pair.model.run_with_hooks(pair.batch, interventions=edit.with_seed(1)))


@pytest.mark.parametrize("head", [0, 3, -1])
def test_one_query_head_under_grouped_keys_stands_alone(qwen, head):
    assert qwen.model.cfg.n_key_value_heads < qwen.model.cfg.n_heads
    point = f"blocks.{LAYER}.attn.hook_z"
    edit = la.Ablate("head", layers=LAYER, heads=head)
    _, plain = qwen.model.run_with_cache(qwen.prompt, point)
    _, edited = qwen.model.run_with_cache(qwen.prompt, point, edit)
    others = [h for h in range(8) if h != head % 8]
    assert torch.equal(plain[point][:, :, others], edited[point][:, :, others])
    assert (edited[point][:, :, head] == 0).all() and (plain[point][:, :, head] != 0).any()


def test_all_heads_at_zero_is_attention_at_zero_where_its_output_has_no_bias(pair):
    assert pair.hf.model.language_model.layers[LAYER].self_attn.o_proj.bias is None
    run = pair.model.run_with_hooks
    heads = run(pair.prompt, interventions=la.Ablate("head", layers=LAYER))
    bounds.close(heads, run(pair.prompt, interventions=la.Ablate("attn", layers=LAYER)), pair.share)


def test_the_delta_of_an_ablated_update_is_nothing(pair):
    for update in ("attn", "mlp"):
        _, cache = pair.model.run_with_cache(pair.prompt, interventions=la.Ablate(update, layers=[0, 4]))
        assert all((cache.delta(update, i) == 0).all() for i in (0, 4))
        assert (cache.delta(update, 1) != 0).any()

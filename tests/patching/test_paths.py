"""Path patching against streams put together by hand."""

from __future__ import annotations

import bounds
import pytest
import torch
from tiny import FAMILIES, INPUTS, rounding, wrapped

from lostattn import patching
from lostattn.errors import InputError


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 17] - logits[:, -1, 40]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def run(family):
    """``(model, clean, corrupted)``: one text, two pictures."""
    model, inputs = wrapped(family), INPUTS[family](seed=0)
    other = {**inputs, "pixel_values": INPUTS[family](seed=1)["pixel_values"]}
    return model, model.prompt(inputs=inputs), model.prompt(inputs=other)


@pytest.fixture(scope="module")
def near(family, run):
    """``(share, size)``: how far two passes may lie apart, and the logits that a metric is made of."""
    return rounding(family), run[0](run[1])[:, -1]


def written(run, layer: int, head: int) -> torch.Tensor:
    """What a head writes in the clean run more than in the corrupted one."""
    model, clean, corrupted = run
    name = f"blocks.{layer}.attn.hook_result"
    a, b = (model.run_with_cache(prompt, name)[1][name] for prompt in (clean, corrupted))
    return (a - b)[:, :, head].detach()


def test_the_direct_path_to_the_logits(run, near) -> None:
    """With heads and FFNs held still, the last stream is the corrupted one and the head's own difference."""
    model, clean, corrupted = run
    table = patching.path_patch(
        model, clean, corrupted, metric, [("z", 1, 2)], [("resid_post", -1)], through_mlps=False
    )
    _, cache = model.run_with_cache(corrupted)
    with torch.no_grad():
        norm = model.hf.get_submodule(model.architecture.final_norm)
        expected = metric(norm(cache["resid_post", -1] + written(run, 1, 2)) @ cache.W_U.T)
    bounds.close(table.value, expected.double(), *near)
    bounds.close(table.corrupted, metric(model(corrupted)).double(), *near)
    bounds.close(table.clean, metric(model(clean)).double(), *near)
    assert bounds.moved(table.value, table.corrupted, near[0], size=near[1])


def test_the_path_to_one_heads_queries(run, near) -> None:
    """By hand: the receiver's q from the norm of the corrupted stream and the sender's difference; all else free."""
    model, clean, corrupted = run
    table = patching.path_patch(
        model, clean, corrupted, metric, [("z", 0, 1)], [("q", 1, 3)], "image", through_mlps=False
    )
    _, cache = model.run_with_cache(corrupted)
    block = model.architecture.stack.blocks[1]
    image = corrupted.token_map["image"][:, :, None]
    with torch.no_grad():
        stream = cache["resid_pre", 1] + written(run, 0, 1) * image
        q = model.hf.get_submodule(block.attn.q)(model.hf.get_submodule(block.ln1)(stream)).unflatten(
            -1, (-1, model.cfg.d_head)
        )

    def put(x, hook):
        x[:, :, 3] = q[:, :, 3]

    expected = metric(model.run_with_hooks(corrupted, [("blocks.1.attn.hook_q", put)]))
    bounds.close(table.value, expected.double(), *near)
    assert bounds.moved(table.value, table.corrupted, near[0], size=near[1])
    others = patching.path_patch(
        model, clean, corrupted, metric, [("z", 0, 1)], [("q", 1)], "image", through_mlps=False
    )
    assert bounds.moved(others.value, table.value, near[0], size=near[1])


def test_ffns_in_between_may_answer(run, near) -> None:
    """Through the FFN of the sender's own layer and of those after it, recomputed by hand for the last layer's head."""
    model, clean, corrupted = run
    last = model.cfg.n_layers - 1
    args = (model, clean, corrupted, metric, [("z", last, 1)], [("resid_post", last)])
    table = patching.path_patch(*args)
    _, cache = model.run_with_cache(corrupted)
    block = model.architecture.stack.blocks[last]
    with torch.no_grad():
        mid = cache["resid_mid", last] + written(run, last, 1)
        end = mid + model.hf.get_submodule(block.mlp)(model.hf.get_submodule(block.ln2)(mid))
        expected = metric(model.hf.get_submodule(model.architecture.final_norm)(end) @ cache.W_U.T)
    bounds.close(table.value, expected.double(), *near)
    without = patching.path_patch(*args, through_mlps=False)
    assert bounds.moved(without.value, table.value, near[0], size=near[1])


def test_the_same_prompt_twice_has_no_paths(run, near) -> None:
    model, clean, _ = run
    table = patching.path_patch(model, clean, clean, metric, [("z", 0, 1), ("mlp_out", 0)], [("k", 2, 0), ("v", 2, 1)])
    assert table.effect.tolist() == [0.0]
    bounds.close(table.value, metric(model(clean)).double(), *near)
    senders = {"blocks.0.attn.hook_z, head 1": 0, "blocks.0.hook_mlp_out": 0}
    receivers = {"blocks.2.attn.hook_k, head 0": 0, "blocks.2.attn.hook_v, head 1": 0}
    assert table.attrs["touched"] == {"senders": senders, "receivers": receivers}
    assert table.attrs["acted_nowhere"] == [*senders, *receivers]
    # With heads held still, what a head says at the picture's positions is heard there and at no other position.
    n_image, sender, receiver = (
        int(clean.token_map["image"].sum()),
        "blocks.0.attn.hook_z, head 1",
        "blocks.2.attn.hook_v",
    )
    for positions, heard in (("image", n_image), ("last", 0)):
        acted = patching.path_patch(*run, metric, [("z", 0, 1)], [("v", 2, 1)], "image", positions).attrs
        assert acted["touched"] == {"senders": {sender: n_image}, "receivers": {f"{receiver}, head 1": heard}}
        assert acted["acted_nowhere"] == ([] if heard else [f"{receiver}, head 1"])


def test_impossible_paths_are_refused(run) -> None:
    model, clean, corrupted = run
    args = (model, clean, corrupted, metric)
    with pytest.raises(InputError, match="the receiver 'blocks.1.attn.hook_q' comes before every sender"):
        patching.path_patch(*args, [("z", 1, 0)], [("q", 1, 0)])
    with pytest.raises(InputError, match="0 senders and 1 receivers"):
        patching.path_patch(*args, [], [("q", 1, 0)])
    with pytest.raises(InputError, match="receivers holds 'q'; expected"):
        patching.path_patch(*args, [("z", 0, 0)], ["q"])
    with pytest.raises(InputError, match="has heads 0 to"):
        patching.path_patch(*args, [("z", 0, 17)], [("q", 1, 0)])

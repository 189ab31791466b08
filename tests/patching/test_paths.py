"""Path patching against streams put together by hand."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, INPUTS, wrapped
from torch.testing import assert_close

from lostattn import patching
from lostattn.errors import InputError


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 17] - logits[:, -1, 40]


@pytest.fixture(scope="module", params=FAMILIES)
def run(request):
    """``(model, clean, corrupted)``: one text, two pictures."""
    model, inputs = wrapped(request.param), INPUTS[request.param](seed=0)
    other = {**inputs, "pixel_values": INPUTS[request.param](seed=1)["pixel_values"]}
    return model, model.prompt(inputs=inputs), model.prompt(inputs=other)


def written(run, layer: int, head: int) -> torch.Tensor:
    """What a head writes in the clean run more than in the corrupted one."""
    model, clean, corrupted = run
    name = f"blocks.{layer}.attn.hook_result"
    a, b = (model.run_with_cache(prompt, name)[1][name] for prompt in (clean, corrupted))
    return (a - b)[:, :, head].detach()


def test_the_direct_path_to_the_logits(run) -> None:
    """With heads and FFNs held still, the last stream is the corrupted one and the head's own difference."""
    model, clean, corrupted = run
    table = patching.path_patch(
        model, clean, corrupted, metric, [("z", 1, 2)], [("resid_post", -1)], through_mlps=False
    )
    _, cache = model.run_with_cache(corrupted)
    with torch.no_grad():
        norm = model.hf.get_submodule(model.architecture.final_norm)
        expected = metric(norm(cache["resid_post", -1] + written(run, 1, 2)) @ cache.W_U.T)
    assert table.value.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert table.corrupted.tolist() == pytest.approx(metric(model(corrupted)).tolist(), abs=1e-5)
    assert table.clean.tolist() == pytest.approx(metric(model(clean)).tolist(), abs=1e-5)
    assert abs(table.effect.item()) > 1e-4


def test_the_path_to_one_heads_queries(run) -> None:
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
    assert table.value.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert abs(table.effect.item()) > 1e-5
    others = patching.path_patch(
        model, clean, corrupted, metric, [("z", 0, 1)], [("q", 1)], "image", through_mlps=False
    )
    assert others.value.item() != pytest.approx(table.value.item(), abs=1e-6)


def test_ffns_in_between_may_answer(run) -> None:
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
    assert table.value.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert patching.path_patch(*args, through_mlps=False).value.item() != pytest.approx(table.value.item(), abs=1e-5)


def test_the_same_prompt_twice_has_no_paths(run) -> None:
    model, clean, _ = run
    table = patching.path_patch(model, clean, clean, metric, [("z", 0, 1), ("mlp_out", 0)], [("k", 2, 0), ("v", 2, 1)])
    assert table.effect.tolist() == [0.0]
    assert_close(torch.tensor(table.value.tolist()), metric(model(clean)).double(), check_dtype=False)


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

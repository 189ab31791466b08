"""A stream that holds its lanes before items and positions (Gemma 3n): the points inside a layer hold none."""

from __future__ import annotations

import bounds
import torch

import lostattn as la
from lostattn.conformance.inputs import prompt_of
from lostattn.conformance.models import fill, small_config
from lostattn.model import LVLM


def made():
    from transformers import Gemma3nForCausalLM

    torch.manual_seed(0)
    module = Gemma3nForCausalLM(small_config("gemma3n").text_config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            fill(parameter, generator)
    return module


def test_points_beside_a_stream_of_lanes_are_read_and_edited() -> None:
    inputs = {"input_ids": torch.tensor([[3, 4, 5, 6, 7, 8, 9]])}
    model = LVLM(made(), None, "gemma3n")
    prompt = prompt_of(model, inputs)
    model.selftest(prompt)
    _, cache = model.run_with_cache(prompt)
    attn = model.architecture.stack.blocks[1].attn
    bare, seen = made(), {}
    bare.get_submodule(attn.q).register_forward_hook(lambda m, args, out: seen.update(q=out.clone()))

    def without_a_head(module, args):
        z = args[0].unflatten(-1, (attn.n_heads, -1)).clone()
        z[..., 2, :] = 0.0
        return (z.flatten(-2),)

    with torch.no_grad():
        bare(**inputs)
    assert cache["resid_pre", 1].shape == (4, 1, 7, 64) and cache["q", 1].shape == (1, 7, 4, 16)
    assert torch.equal(cache["q", 1].flatten(-2), seen["q"])
    bare.get_submodule(attn.o).register_forward_pre_hook(without_a_head)
    with torch.no_grad():
        expected = bare(**inputs).logits
    found = model.run_with_hooks(prompt, interventions=la.Ablate("head", layers=1, heads=2))
    share = bounds.passes(made(), inputs)
    bounds.close(found, expected, share)
    assert bounds.moved(found, model(prompt), share)


def test_a_module_that_runs_in_no_layer_has_no_point() -> None:
    """Keys are taken over from an earlier layer in the second half."""
    model = LVLM(made(), None, "gemma3n")
    model.selftest(prompt_of(model, {"input_ids": torch.tensor([[3, 4, 5, 6, 7]])}))
    assert "blocks.1.attn.hook_k" in model.hook_names and "blocks.2.attn.hook_k" not in model.hook_names
    assert "blocks.2.attn.hook_q" in model.hook_names

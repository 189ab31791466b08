"""The TransformerLens bridge: it shares the weights, leaves the model alone, installs nothing, and agrees."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import subprocess

import accelerate
import bounds
import pytest
import torch
from tiny import FAMILIES, MAKERS, batched, positioned, rounding, unequal, wrapped
from torch import nn
from torch.nn.utils import parametrize

import lostattn as la
from lostattn.errors import UnknownName, UnsupportedModel
from lostattn.model.bridge import nothing_installed, twin

# Names of the bridge that lostattn does not answer to, and why.
NOT_SHARED = {
    r"embed\.hook_in": "token ids, no activation",
    r"vision_encoder\.hook_in|vision_encoder\.(embeddings|patch_embed)\.hook_in": "pixels, no activation",
    r"rotary_emb\..*|blocks\.\d+\.attn\.hook_(cos|sin)|vision_encoder\.pos_embed\..*": "constants of the positions",
    r"vision_encoder\.pre_layernorm\.hook_(scale|normalized)": "statistics of a norm outside the layers",
    r"vision_encoder\.post_layernorm\..*": "the pooled class token, which no LLaVA decoder reads",
    r"vision_encoder\.blocks\.\d+\.attn\.qkv\.hook_out": "q, k and v in one; they are hook_q, hook_k and hook_v here",
    r"vision_encoder\.blocks\.\d+\.attn\.proj\.hook_in": "hook_z, without its heads",
}
# Names that both have for different things: the bridge calls a pattern hook_attn_scores where it keeps the native
# attention; here scores are always those before the softmax.
PATTERN_UNDER_THE_NAME_OF_SCORES = {
    "llava": r"vision_encoder\.encoder_layers\.\d+\.attn\.hook_attn_scores",
    "qwen": r"blocks\.\d+\.attn\.hook_attn_scores",
}


@functools.cache
def run_of_the_bridge(family):
    """``(bridge, its logits, its cache, our logits, our cache)`` on a batch of unequal lengths."""
    model = wrapped(family)
    inputs = batched(family, unequal(family))
    logits, cache = model.run_with_cache(model.prompt(inputs=inputs))
    bridge = model.to_transformer_bridge()
    others = {name: value for name, value in positioned(family, inputs).items() if name != "input_ids"}
    with torch.no_grad():
        their_logits, their_cache = bridge.run_with_cache(inputs["input_ids"], **others)
    real = inputs["attention_mask"].bool()
    return bridge, their_logits, their_cache, logits, cache, real


def _answered(cache, name):
    try:
        return cache[name]
    except UnknownName:
        return None


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_agree(family):
    _, theirs, _, mine, _, real = run_of_the_bridge(family)
    bounds.close(mine[real], theirs[real], rounding(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_shared_name_holds_the_same_value(family):
    _, _, theirs, _, cache, real = run_of_the_bridge(family)
    shared = [name for name in theirs if _answered(cache, name) is not None]
    exception = PATTERN_UNDER_THE_NAME_OF_SCORES[family]
    compared = [name for name in shared if not re.fullmatch(exception, name)]
    assert len(compared) > {"llava": 300, "qwen": 240}[family]
    assert len(shared) - len(compared) == 3  # one a layer of that stack
    for name in compared:
        _compare(name, cache[name], theirs[name], real, rounding(family), cache[bounds.sized_by(name)])


def _compare(name, mine, theirs, real, share, size):
    assert mine.shape == theirs.shape, name
    if not name.startswith("vision"):  # padding is nobody's business
        rows = mine.transpose(1, 2) if mine.dim() == 4 and mine.shape[-1] == real.shape[1] else mine
        other = theirs.transpose(1, 2) if rows is not mine else theirs
        mine, theirs = rows[real], other[real]
    if name.endswith("hook_attn_scores"):
        hidden = mine.isinf()
        assert (theirs[hidden] < -1e30).all(), name  # they write unseen keys as the smallest float
        mine, theirs = mine[~hidden], theirs[~hidden]
    bounds.close(mine, theirs, share, size=size, of=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_that_are_not_shared_are_known(family):
    _, _, theirs, _, cache, _ = run_of_the_bridge(family)
    missing = [name for name in theirs if _answered(cache, name) is None]
    unexplained = [name for name in missing if not any(re.fullmatch(reason, name) for reason in NOT_SHARED)]
    assert unexplained == []
    ours = {name.rpartition(".")[2] for name in cache} - {name.rpartition(".")[2] for name in theirs}
    # The bridge makes results only when asked to, at a cost; and where it keeps the native attention, q and k are
    # never seen rotated.
    assert ours == {"llava": {"hook_result"}, "qwen": {"hook_result", "hook_rot_q", "hook_rot_k"}}[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_where_the_bridge_calls_a_pattern_scores(family):
    _, _, theirs, _, cache, real = run_of_the_bridge(family)
    names = [n for n in theirs if re.fullmatch(PATTERN_UNDER_THE_NAME_OF_SCORES[family], n)]
    assert names
    for name in names:
        assert torch.equal(theirs[name], theirs[name.replace("attn_scores", "pattern")])
        softmax = torch.softmax(cache[name], dim=-1).nan_to_num(0.0)
        mine, other = softmax.transpose(1, 2), theirs[name].transpose(1, 2)
        if family == "qwen":
            mine, other = mine[real], other[real]
        bounds.close(mine, other, rounding(family), size=cache[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_are_shared_and_the_model_stays_as_it_was(family):
    model = la.load(MAKERS[family](), selftest=False)
    prompt = model.prompt(inputs=batched(family, unequal(family)))
    tree = [(path, type(module)) for path, module in model.hf.named_modules()]
    before, cache = model.run_with_cache(prompt)
    generated = model.generate(prompt, max_new_tokens=3).tokens
    bridge = model.to_transformer_bridge()
    assert {id(p) for p in bridge.parameters()} == {id(p) for p in model.hf.parameters()}
    assert [(path, type(module)) for path, module in model.hf.named_modules()] == tree
    assert model.cfg.attn_implementation == "sdpa"
    _use(bridge, prompt)
    after, again = model.run_with_cache(prompt)
    assert torch.equal(before, after)
    assert all(torch.equal(cache[name], again[name]) for name in ("pattern1", "blocks.1.hook_resid_mid"))
    assert torch.equal(model.generate(prompt, max_new_tokens=3).tokens, generated)


def _use(bridge, prompt):
    others = {name: value for name, value in prompt.inputs.items() if name != "input_ids"}
    with torch.no_grad():
        bridge.run_with_hooks(
            prompt.inputs["input_ids"],
            fwd_hooks=[("blocks.1.hook_resid_post", lambda value, hook: value * 2)],
            **others,
        )


def test_a_changed_weight_is_seen_by_both():
    model = la.load(MAKERS["llava"](), selftest=False)
    bridge = model.to_transformer_bridge()
    prompt = model.prompt(inputs=unequal("llava")[0])
    others = {name: value for name, value in prompt.inputs.items() if name != "input_ids"}
    before = model.forward(prompt)
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(2.0)
        theirs = bridge(prompt.inputs["input_ids"], **others)
    bounds.close(model.forward(prompt), 2 * before, rounding("llava"))
    bounds.close(theirs, 2 * before, rounding("llava"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_has_the_same_parameters_and_nothing_of_nnsight(family):
    model = wrapped(family)
    other = twin(model.hf)
    assert all(a is b for a, b in zip(other.parameters(), model.hf.parameters(), strict=True))
    assert other.config is not model.hf.config
    for mine, theirs in zip(model.hf.modules(), other.modules(), strict=True):
        assert mine is not theirs and "__nnsight__" not in theirs.__dict__ and "forward" not in theirs.__dict__
    # As in the original, a part's config is the very object that the whole one holds.
    assert other.model.language_model.config is other.config.text_config
    inputs = unequal(family)[0]
    with torch.no_grad():
        assert torch.equal(other(**inputs).logits, model.hf(**inputs).logits)


def test_booting_installs_nothing(monkeypatch, tmp_path):
    """Whatever TransformerLens would start, nothing is started, and everything is as it was afterwards."""
    from transformer_lens.model_bridge.sources.transformers import helpers
    from transformer_lens.model_bridge.supported_architectures import qwen2_5_vl

    adapter = qwen2_5_vl.Qwen2_5_VLArchitectureAdapter
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **kwargs: started.append(args))
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("UV_OFFLINE", "before")
    installs, packages, torch_now = helpers._ensure_torchvision, _packages(), importlib.metadata.version("torch")
    with nothing_installed(adapter):
        assert os.environ["PIP_NO_INDEX"] == os.environ["UV_OFFLINE"] == "1"
        assert helpers._ensure_torchvision() is False
        assert adapter.required_libraries == []
    wrapped("qwen").to_transformer_bridge()
    assert started == []
    assert "PIP_NO_INDEX" not in os.environ and os.environ["UV_OFFLINE"] == "before"
    assert helpers._ensure_torchvision is installs
    assert adapter.required_libraries == ["torchvision"]
    assert _packages() == packages
    assert importlib.metadata.version("torch") == torch_now == torch.__version__


def _packages():
    importlib.invalidate_caches()
    return sorted((d.name, d.version) for d in importlib.metadata.distributions())


def test_guards_are_taken_down_after_a_failure():
    from transformer_lens.model_bridge.sources.transformers import helpers
    from transformer_lens.model_bridge.supported_architectures import qwen2_5_vl

    installs = helpers._ensure_torchvision
    with pytest.raises(RuntimeError, match="in between"), nothing_installed(qwen2_5_vl.Qwen2_5_VLArchitectureAdapter):
        raise RuntimeError("in between")
    assert helpers._ensure_torchvision is installs
    assert qwen2_5_vl.Qwen2_5_VLArchitectureAdapter.required_libraries == ["torchvision"]


def test_an_architecture_that_transformer_lens_does_not_know():
    model = la.load(MAKERS["llava"](), selftest=False)
    model.hf.__class__ = type("LlavaForConditionalGenerationX", (type(model.hf),), {})
    with pytest.raises(UnsupportedModel, match="TransformerLens has no adapter for LlavaForConditionalGenerationX"):
        model.to_transformer_bridge()


class Squared(nn.Module):
    """Of a module of one's own, and as a parametrisation."""

    def __init__(self, layer=None):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x * x if self.layer is None else self.layer(2 * x)


def parametrised(module, path):
    parametrize.register_parametrization(module.get_submodule(path), "weight", Squared())


def replaced(module, path):
    module.set_submodule(path, Squared(module.get_submodule(path)))


def overridden(module, path):
    layer = module.get_submodule(path)
    stored = layer.forward
    layer.forward = lambda x: stored(2 * x)


def offloaded(module, path):
    accelerate.cpu_offload(module, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("path", ["model.language_model.layers.2.self_attn.v_proj", "lm_head"])
@pytest.mark.parametrize(
    "change, reason",
    [
        (parametrised, "{path} is parametrised"),
        (replaced, "{path} .Squared. is a module of its own, without a weight"),
        (overridden, "{path} .Linear. multiplies by something else than the weight that it stores"),
        (offloaded, "accelerate keeps the weights of .* elsewhere"),
    ],
)
def test_weights_that_are_not_what_the_model_computes_with(change, reason, path):
    module = MAKERS["llava"]()
    change(module, path)
    model = la.load(module, selftest=False)
    with pytest.raises(UnsupportedModel, match="as they are stored, .*: " + reason.format(path=re.escape(path))):
        model.to_transformer_bridge()


def test_a_trained_model_with_its_processor(tiny_model, shapes_questions):
    """Through the real processor and tokenizer; the bridge sets up a copy of the tokenizer, not the model's own."""
    tokenizer = tiny_model.processor.tokenizer
    before = (tokenizer.padding_side, tokenizer.bos_token, tokenizer.pad_token, len(tokenizer), tokenizer.name_or_path)
    prompt = tiny_model.prompt(shapes_questions[0])
    logits, cache = tiny_model.run_with_cache(prompt, ["pattern2", "blocks.2.attn.hook_attn_scores"])
    share = bounds.passes(tiny_model.hf, prompt.inputs)
    bridge = tiny_model.to_transformer_bridge()
    others = {name: value for name, value in prompt.inputs.items() if name != "input_ids"}
    with torch.no_grad():
        theirs, their_cache = bridge.run_with_cache(prompt.inputs["input_ids"], **others)
    bounds.close(theirs, logits, share)
    bounds.close(their_cache["pattern", 2], cache["pattern", 2], share, size=cache["attn_scores", 2])
    after = (tokenizer.padding_side, tokenizer.bos_token, tokenizer.pad_token, len(tokenizer), tokenizer.name_or_path)
    assert after == before
    assert bridge.tokenizer is not tokenizer and bridge.processor is tiny_model.processor
    ids = bridge.to_tokens(prompt.texts[0], prepend_bos=False)
    assert ids[0].tolist() == tokenizer(prompt.texts[0], add_special_tokens=False)["input_ids"]

"""The proof at load: what it reports, and that a model which would be edited in vain is refused by point."""

from __future__ import annotations

import dataclasses
import inspect
import re

import numpy as np
import pytest
import torch
from tiny import FAMILIES, INPUTS, MAKERS, batched, rounding, text_inputs, unequal, wrapped
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import CLIPAttention
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

import lostattn as la
from lostattn.errors import InputError, UnsupportedModel
from lostattn.selftest import perturbed_pass
from lostattn.selftest.report import Check, Report
from lostattn.selftest.sample import sample_picture

# What every layer of a plain decoder is held to.
KEPT = (
    "pattern @ v = z",
    "pattern @ v = what the kernel gave",
    "the output map of z = what attention gives",
    "resid_pre + Δattn + Δmlp = resid_post",
    "resid_pre + Δattn = resid_mid",
)


UPDATES = ("attn", "mlp")


def _blocks(prefix, n):
    return [f"{prefix}.{i}" for i in range(n)]


def load(module, family="llava"):
    model = la.load(module, selftest=False)
    return model, model.prompt(inputs=INPUTS[family]())


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_report_of_a_sound_model(family, kernel):
    model = wrapped(family, kernel)
    report = model.selftest(model.prompt(inputs=INPUTS[family]()))
    assert report.passed and report.failed == ()
    c, read = model.cfg, model.architecture.vision.n_read
    names = [check.name for check in report.checks]
    assert names[0] == "the untouched pass is the bare model's"
    assert re.fullmatch(r"identity at \d+ points", names[1]) and int(names[1].split()[2]) > 110
    moved = [check for check in report.checks if check.name.startswith("a perturbed ")]
    share = rounding(family)
    assert len(moved) == c.n_layers + read and all(check.measured > share for check in moved)
    prefix = model.architecture.vision.stack.prefix
    assert f"a perturbed {prefix}.{read - 1}.attn.hook_pattern moves the logits" in names
    assert f"rows of blocks.{c.n_layers - 1}.attn.hook_pattern sum to one" in names
    assert f"{prefix}.{read - 1}: pattern @ v = z" in names
    assert {f"blocks.{i}: {kept}" for i in range(c.n_layers) for kept in KEPT} <= set(names)
    of_kernel = {"pattern @ v = what the kernel gave"} if family == "qwen" else set()  # in windows there is no one call
    assert {f"{prefix}.{i}: {kept}" for i in range(read) for kept in set(KEPT) - of_kernel} <= set(names)
    written = [
        f"{block}.hook_{u}_out" for block in (*_blocks("blocks", c.n_layers), *_blocks(prefix, read)) for u in UPDATES
    ]
    assert {f"what is written to {point} is what the layer goes on with" for point in written} <= set(names)
    assert len(set(names)) == len(names)
    assert all(check.measured < 10 * share for check in report.checks if check not in moved)  # of values of up to ten
    assert repr(report) == f"self-test of {model.name}: {len(names)} of {len(names)} checks passed"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_and_half_precision_pass_too(family):
    model = wrapped(family)
    assert model.selftest(model.prompt(inputs=batched(family, unequal(family)))).passed
    half = la.load(MAKERS[family](dtype=torch.bfloat16), selftest=False)
    assert half.selftest(half.prompt(inputs=INPUTS[family]())).passed


def test_trained_models_pass_on_a_picture_of_its_own_and_on_questions(tiny_model, shapes_questions):
    assert tiny_model.selftest().passed
    assert tiny_model.selftest(shapes_questions[3]).passed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_without_a_picture_proves_the_decoder(family):
    model = wrapped(family)
    report = model.selftest(model.prompt(inputs=text_inputs(family)))
    assert report.passed and len(report.checks) > 4 * model.cfg.n_layers
    assert not any("vision" in check.name for check in report.checks)
    # The tower's points are not taken for absent because this prompt did not reach them.
    assert any(name.startswith("vision") for name in model.hook_names)


def test_the_picture_has_no_two_patches_alike():
    picture = torch.from_numpy(np.array(sample_picture())).reshape(8, 8, 8, 8, 3).transpose(1, 2).reshape(64, -1)
    assert len({tuple(patch.tolist()) for patch in picture}) == 64


class Passes:
    """How many forward passes a model makes while it is watched, and how many calls of one of its layers."""

    def __init__(self, module):
        self.n = 0
        self.handle = module.register_forward_pre_hook(self._count)

    def _count(self, module, args):
        self.n += 1

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.handle.remove()


def deeper(family, n):
    """A tiny model with so many decoder layers and two more in its tower."""
    config = MAKERS[family]().config
    config.text_config.num_hidden_layers = n
    if family == "qwen":
        config.text_config.layer_types = ["full_attention"] * n
        config.vision_config.depth = n + 2
    else:
        config.vision_config.num_hidden_layers = n + 2
    torch.manual_seed(0)
    return type(MAKERS[family]())(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_are_as_many_whatever_the_depth(family):
    counts = []
    for n in (2, 7):
        module = deeper(family, n)
        model, prompt = load(module, family)
        assert model.cfg.n_layers == n
        with Passes(module) as passes, Passes(module.model.language_model.layers[-1]) as of_layer:
            assert model.selftest(prompt).passed
        counts.append((passes.n, of_layer.n))
    assert counts == [(5, 5), (5, 5)]
    with Passes(module) as passes:
        model.selftest(model.prompt(inputs=text_inputs(family)))
    assert passes.n == 4


def test_it_needs_a_prompt():
    with pytest.raises(InputError, match=re.escape("the self-test needs a prompt: model.selftest(model.prompt(inputs")):
        wrapped("llava").selftest()


def test_a_report_of_failures():
    report = Report("some model", (Check("one", 0.0, True), Check("two", 0.25, False)))
    assert not report.passed and report.failed == (report.checks[1],)
    assert repr(report) == "self-test of some model: 1 of 2 checks passed\n  FAILED two: 0.25"


class InVain(LlamaAttention):
    """Calls the attention interface and then uses something else: what TransformerLens does on some families."""

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **kwargs):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", None)
        _, weights = attention_interface(self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0)
        mean = value.transpose(1, 2).cumsum(1) / torch.arange(1, value.shape[2] + 1)[:, None, None]
        return self.o_proj(mean.flatten(-2)), weights


def capped(module, query, key, value, attention_mask, scaling, **keywords):
    """Attention whose scores are capped: softmax(q k / √d) is not its pattern."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    scores = torch.tanh(query @ key.transpose(-1, -2) * scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    pattern = torch.softmax(scores, dim=-1)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


AttentionInterface.register("capped", capped)
AttentionMaskInterface.register("capped", eager_mask)


def refused(model, prompt):
    with pytest.raises(UnsupportedModel) as caught:
        model.selftest(prompt)
    message = str(caught.value)
    assert message.endswith("This model would be edited in vain; load with selftest=False to look on.")
    return re.findall(r"FAILED (.*): [^:]*$", message, flags=re.MULTILINE)


def test_a_pattern_that_is_computed_but_not_used():
    module = MAKERS["llava"]()
    module.model.language_model.layers[2].self_attn.__class__ = InVain
    assert "attention_interface(" in inspect.getsource(InVain.forward)
    assert refused(*load(module)) == ["a perturbed blocks.2.attn.hook_pattern moves the logits"]


class InVainTower(CLIPAttention):
    """The same in a vision tower."""

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", None)
        _, weights = attention_interface(self, query, key, value, attention_mask, scaling=self.scale, dropout=0.0)
        mean = value.transpose(1, 2).mean(1, keepdim=True).expand(-1, value.shape[2], -1, -1)
        return self.out_proj(mean.flatten(-2)), weights


@pytest.mark.parametrize("layer", [0, 1])
def test_a_tower_that_does_not_use_its_pattern(layer):
    module = MAKERS["llava"]()
    module.model.vision_tower.encoder.layers[layer].self_attn.__class__ = InVainTower
    failed = refused(*load(module))
    assert failed == [f"a perturbed vision_encoder.encoder_layers.{layer}.attn.hook_pattern moves the logits"]


def test_an_update_whose_edits_are_lost():
    """The layer goes on with a copy of what its FFN gives: every value is right, and an edit of it changes nothing."""
    module = MAKERS["llava"]()
    layer = module.model.language_model.layers[1]
    plain = layer.mlp.forward

    def forward(hidden_states, **keywords):
        copied = torch.nn.functional.linear(
            layer.mlp.act_fn(layer.mlp.gate_proj(hidden_states)) * layer.mlp.up_proj(hidden_states),
            layer.mlp.down_proj.weight,
        )
        plain(hidden_states)
        return copied

    layer.mlp.forward = forward
    assert refused(*load(module)) == ["what is written to blocks.1.hook_mlp_out is what the layer goes on with"]


def test_an_edit_that_is_lost_in_one_layer(monkeypatch):
    """Whatever loses it: the walker leaves out the pattern edits of one layer, or what is written to its update."""
    model, prompt = load(MAKERS["qwen"](), "qwen")
    honest = perturbed_pass.pass_call

    def losing(point, what):
        def call(*given):
            found = honest(*given)
            program = [dict(event) for event in found.program]
            for event in program:
                if event["path"].endswith(point):
                    event[what] = [] if what == "patterns" else [a for a in event[what] if a["verb"] != "edit"]
            return dataclasses.replace(found, program=program)

        return call

    monkeypatch.setattr(perturbed_pass, "pass_call", losing("language_model.layers.1.self_attn", "patterns"))
    assert refused(model, prompt) == ["a perturbed blocks.1.attn.hook_pattern moves the logits"]
    monkeypatch.setattr(perturbed_pass, "pass_call", losing("visual.blocks.2.attn", "patterns"))
    assert refused(model, prompt) == ["a perturbed vision_encoder.blocks.2.attn.hook_pattern moves the logits"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "path", "failed"),
    [
        ("llava", "model.language_model.layers.1.self_attn.o_proj", "blocks.1.attn.hook_pattern"),
        ("llava", "model.vision_tower.encoder.layers.1.self_attn.out_proj", "vision_encoder.encoder_layers.1.attn.ho"),
        ("qwen", "model.visual.blocks.2.attn.proj", "vision_encoder.blocks.2.attn.hook_pattern"),
        ("qwen", "model.language_model.layers.2.self_attn.o_proj", "blocks.2.attn.hook_pattern"),
    ],
)
def test_an_attention_that_writes_nothing(family, path, failed):
    module = MAKERS[family]()
    with torch.no_grad():
        module.get_submodule(path).weight.zero_()
    (only,) = refused(*load(module, family))
    assert only.startswith(f"a perturbed {failed}") and only.endswith(" moves the logits")


def test_a_stream_that_is_changed_behind_the_modules():
    """A hook that somebody left on a layer: its output is no longer the sum of the updates."""
    module = MAKERS["llava"]()
    layer = module.model.language_model.layers[0]
    layer.register_forward_hook(
        lambda _, args, out: 0.5 * out if isinstance(out, torch.Tensor) else (0.5 * out[0], *out[1:])
    )
    assert refused(*load(module)) == ["blocks.0: resid_pre + Δattn + Δmlp = resid_post"]


def test_a_kernel_that_is_no_plain_softmax():
    module = MAKERS["qwen"](attn_implementation="capped")
    failed = refused(*load(module, "qwen"))
    assert {f"blocks.{i}: pattern @ v = z" for i in range(3)} < set(failed)
    assert {f"vision_encoder.blocks.{i}: pattern @ v = z" for i in range(4)} < set(failed)
    assert all("pattern @ v" in name for name in failed)


def test_a_model_that_is_not_the_same_twice():
    """Something random in the forward pass, here dropout left on by a faulty module: nothing could be told from it."""
    module = MAKERS["llava"]()
    layer = module.model.language_model.layers[3].mlp
    layer.register_forward_hook(lambda module, args, out: torch.nn.functional.dropout(out, 0.1, training=True))
    assert "the untouched pass is the bare model's" in refused(*load(module))


def test_values_that_are_not_numbers():
    module = MAKERS["llava"]()
    with torch.no_grad():
        module.model.language_model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    failed = refused(*load(module))
    assert "the untouched pass is the bare model's" in failed


@pytest.mark.slow
def test_load_refuses_what_the_selftest_refuses(tiny_llava):
    module = MAKERS["llava"]()
    broken = la.load("tiny-llava", selftest=False).hf
    with torch.no_grad():
        broken.model.language_model.layers[4].self_attn.o_proj.weight.zero_()
    with pytest.raises(UnsupportedModel, match="FAILED a perturbed blocks.4.attn.hook_pattern moves the logits: 0"):
        la.load(broken, processor=tiny_llava.processor)
    assert la.load(broken, processor=tiny_llava.processor, selftest=False).hf is broken
    assert la.load(module).hf is module  # without a processor there is no prompt to test with

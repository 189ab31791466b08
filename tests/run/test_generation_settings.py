"""Settings of a generation under interventions: exact as by hand with plain hooks, or refused by name."""

from __future__ import annotations

import contextlib
import functools
import inspect

import bounds
import pytest
import torch
from tiny import FAMILIES, IMAGE, batched, rounding, unequal, wrapped
from tiny import bare as bare_model
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerationMixin

import lostattn as la
from lostattn.errors import InputError, UnknownName
from lostattn.run import generation_settings as table

NEW = 5
LAYER = 1
EDIT = la.Ablate("attn", layers=[LAYER], positions="last")


@functools.cache
def prompt_of(family):
    inputs = batched(family, unequal(family))
    return wrapped(family).prompt(inputs=inputs), inputs


@contextlib.contextmanager
def last_row_without_attention(family, steps=range(1000), rows=slice(-1, None)):
    """By hand, on the bare model: what attention of one layer adds is nothing in some rows, at some passes."""
    path = wrapped(family).architecture.stack.blocks[LAYER].path
    seen = []

    def hook(module, args, output):
        seen.append(len(seen))
        if seen[-1] not in steps:
            return output
        edited = output[0].clone()
        edited[:, rows] = 0.0
        return (edited, *output[1:])

    handle = bare_model(family).get_submodule(f"{path}.self_attn").register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def by_hand(family, steps=range(1000), **settings):
    usual = {"do_sample": False, "max_new_tokens": NEW}
    more = {"return_dict_in_generate": True, "output_scores": True}
    with last_row_without_attention(family, steps):
        torch.manual_seed(3)
        return bare_model(family).generate(**prompt_of(family)[1], **{**usual, **more, **settings})


def ours(family, edit=EDIT, **settings):
    torch.manual_seed(3)
    return wrapped(family).generate(
        prompt_of(family)[0], edit, **{"max_new_tokens": NEW, "output_scores": True, **settings}
    )


class Damped(LogitsProcessor):
    """Logits that make low tokens likelier."""

    def __call__(self, input_ids, scores):
        return scores - 0.3 * torch.arange(scores.shape[-1])


class AfterThree(StoppingCriteria):
    """Every item ends with its third token."""

    def __init__(self, n):
        self.n = n

    def __call__(self, input_ids, scores, **keywords):
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.n + 3)


class Collected(BaseStreamer):
    """Remembers what it is told."""

    def __init__(self):
        self.told, self.ended = [], False

    def put(self, value):
        self.told.append(value.clone())

    def end(self):
        self.ended = True


SAMPLED = {"do_sample": True, "temperature": 1.7}
EXACT = {
    "greedy": {},
    "sampled": {**SAMPLED, "top_k": 30, "top_p": 0.9},
    "sampled otherwise": {**SAMPLED, "min_p": 0.01, "typical_p": 0.95, "epsilon_cutoff": 3e-4, "eta_cutoff": 3e-4},
    "sampled by entropy": {**SAMPLED, "top_h": 0.6},
    "several of each": {**SAMPLED, "num_return_sequences": 2},
    "no repetition": {"repetition_penalty": 1.8, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 1},
    "tokens kept away": {"suppress_tokens": [5, 6, 7], "begin_suppress_tokens": [11], "bad_words_ids": [[8], [9, 10]]},
    "tokens brought near": {"sequence_bias": [[[21], 9.0]], "renormalize_logits": True, "forced_eos_token_id": 2},
    "not too short": {"min_new_tokens": 3, "eos_token_id": list(range(3, 60))},
    "not too long": {"exponential_decay_length_penalty": (1, 1.5), "eos_token_id": [3, 4, 5]},
    "not too short in all": {"min_length": 30, "remove_invalid_values": True, "eos_token_id": list(range(3, 60))},
    "its own processor": {"logits_processor": LogitsProcessorList([Damped()])},
    "allowed tokens": {"prefix_allowed_tokens_fn": lambda item, ids: [31 + item, 32 + item, 40]},
    "watermark": {"watermarking_config": {"bias": 4.0, "seeding_scheme": "lefthash"}},
    "fixed length": {"cache_implementation": "static"},
    "fixed and long": {"cache_implementation": "static", "max_cache_len": 77},
    "both by another name": {"cache_implementation": "hybrid"},
    "compiled nowhere": {"disable_compile": True},
    "in time": {"max_time": 1000.0},
}  # fmt: skip


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_exact_setting_gives_what_plain_hooks_give(family, case):
    expected, found = by_hand(family, **EXACT[case]), ours(family, **EXACT[case])
    assert torch.equal(found.sequences, expected.sequences)
    scores = torch.stack(expected.scores, 1)
    reached = torch.isfinite(scores)
    assert torch.equal(torch.isfinite(found.scores), reached)
    bounds.close(found.scores[reached], scores[reached], rounding(family))
    assert len(found.text) == len(found.tokens) == len(expected.sequences)
    assert not torch.equal(found.scores[:, 0], ours(family, None, **EXACT[case]).scores[:, 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_of_a_prompt_and_no_cache_leave_an_edit_where_it_is(family):
    """Neither changes what a pass gives, and by hand a piece of a prompt must be told from the prompt."""
    edit = la.Ablate("attn", layers=[LAYER], positions="last", steps="prefill")
    expected = by_hand(family, steps=[0])
    assert not torch.equal(expected.sequences, ours(family, None).sequences)
    for settings in ({}, {"prefill_chunk_size": 4}, {"prefill_chunk_size": 16}, {"use_cache": False}):
        assert torch.equal(ours(family, edit, **settings).sequences, expected.sequences), settings
        later = la.Ablate("attn", layers=[LAYER], positions="last", steps=(1, 2))
        hand = by_hand(family, steps=[1])
        assert torch.equal(ours(family, later, **settings).sequences, hand.sequences), settings


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_several_answers_are_those_of_single_passes(family):
    prompt, inputs = prompt_of(family)
    found = ours(family, num_return_sequences=2, output_logits=True, **SAMPLED)
    assert found.logits.shape == (6, NEW, found.scores.shape[-1])
    n, ids = prompt.n_pos, found.sequences[:, :-1]
    mask = torch.cat([inputs["attention_mask"].repeat_interleave(2, 0), torch.ones(6, NEW - 1, dtype=torch.long)], 1)
    for b, copy in enumerate(range(6)):
        single = {"input_ids": ids[[copy]], "attention_mask": mask[[copy]]}
        single |= {k: v for k, v in unequal(family)[b // 2].items() if k.startswith(("pixel", "image"))}
        if family == "qwen":
            single["mm_token_type_ids"] = (single["input_ids"] == IMAGE["qwen"]).int()
        else:
            single["position_ids"] = (single["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        with last_row_without_attention(family, rows=slice(n - 1, None)), torch.no_grad():
            logits = bare_model(family)(**single, use_cache=False).logits
        bounds.close(found.logits[b], logits[0, n - 1 :], rounding(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_values_and_seeds_go_by_the_item_of_several_answers(family):
    """What is given for each item of the prompt is meant for each of its answers."""
    model, (prompt, _) = wrapped(family), prompt_of(family)
    mask = torch.zeros(3, prompt.n_pos, dtype=torch.bool)
    mask[0, -3:], mask[1, -2:], mask[2, -4:-1] = True, True, True
    keys = torch.zeros_like(mask)
    keys[:, -5:-1] = True
    plain, cache = model.run_with_cache(prompt, interventions=la.Ablate("mlp", layers=[0]))
    fixed = la.Fixed(torch.arange(12.0).reshape(3, 4) + 1)
    edits = [
        la.Ablate("mlp", layers=[1], positions=mask),
        la.ReplaceAttention(fixed, keys=keys, queries=mask, layers=[1]),
        la.ReplaceAttention(la.Gaussian(seed=1), keys=keys, space="scores"),
        la.ReplaceAttention(la.FromCache.of(cache, layers=[1]), queries=mask, keys=keys, layers=[1]),
        la.Patch.of(cache, "resid_post", layers=1, positions=mask),
        la.NoiseUpdate("mlp", layers=[2], seed=4),
        la.Ablate("mlp", layers=[1], to="resample", seed=2),
    ]
    for edit in edits:
        once = model.generate(prompt, edit, max_new_tokens=1, output_logits=True).logits
        found = model.generate(
            prompt, edit, max_new_tokens=1, output_logits=True, num_return_sequences=2, do_sample=True
        )
        bounds.close(found.logits, once.repeat_interleave(2, 0), rounding(family))
        assert not torch.equal(once[:, 0], plain[:, -1])


def test_a_stopping_criterion_ends_it_and_a_streamer_is_told(tiny_llava, shapes_questions):
    model, (prompt, _) = wrapped("llava"), prompt_of("llava")
    ends = StoppingCriteriaList([AfterThree(prompt.n_pos)])
    told = Collected()
    found = ours("llava", stopping_criteria=ends, streamer=told)
    assert torch.equal(found.sequences, by_hand("llava", stopping_criteria=ends).sequences)
    assert found.tokens.shape[1] == 3
    assert torch.equal(torch.stack(told.told[1:], 1), found.tokens) and told.ended
    with pytest.raises(InputError, match="a streamer is told of tokens where the model is"):
        model.generate(prompt, EDIT, max_new_tokens=1, streamer=Collected(), remote="local")
    question = tiny_llava.prompt(shapes_questions[0])
    said = tiny_llava.generate(question, la.ScaleAttention(0.9), max_new_tokens=3, eos_token_id=None)
    first = tiny_llava.generate(
        question, la.ScaleAttention(0.9), max_new_tokens=3, eos_token_id=None, stop_strings=said.str_tokens[0][0]
    )
    assert first.tokens.tolist() == said.tokens[:, :1].tolist()
    with pytest.raises(InputError, match="stop_strings needs a tokenizer"):
        model.generate(prompt, stop_strings="x")


def test_what_is_chosen_by_comes_back_from_elsewhere_too():
    model, (prompt, _) = wrapped("qwen"), prompt_of("qwen")
    here = model.generate(prompt, EDIT, max_new_tokens=2, output_scores=True, output_logits=True)
    there = model.generate(prompt, EDIT, max_new_tokens=2, output_scores=True, output_logits=True, remote="local")
    assert torch.equal(here.scores, there.scores) and torch.equal(here.logits, there.logits)
    assert torch.equal(here.sequences, there.sequences)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_interventions_everything_is_transformers_own(family):
    model, (prompt, inputs) = wrapped(family), prompt_of(family)
    for settings in (
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
        {"num_beams": 2, "do_sample": True, "output_scores": True, "return_dict_in_generate": True},
        {"guidance_scale": 1.5} if family == "llava" else {"top_k": 5, "do_sample": True},
        {"output_attentions": True, "output_hidden_states": True, "return_dict_in_generate": True},
        {"use_cache": False},
    ):
        torch.manual_seed(1)
        found = model.generate(prompt, la.Composition(()), max_new_tokens=NEW, **settings)
        torch.manual_seed(1)
        theirs = bare_model(family).generate(**inputs, **{"do_sample": False, "max_new_tokens": NEW, **settings})
        whole = not isinstance(theirs, torch.Tensor)
        assert torch.equal(found.sequences, theirs.sequences if whole else theirs)
        assert len(found.text) == len(found.sequences)
        assert (found.output is not None) == whole
        if settings.get("output_scores"):
            assert torch.equal(found.output.sequences_scores, theirs.sequences_scores)
        if settings.get("output_hidden_states"):
            assert len(found.output.hidden_states) == NEW


ASKED = {
    "num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 0.5, "constraints": ["x"], "force_words_ids": [[3]],
    "penalty_alpha": 0.6, "low_memory": True, "dola_layers": "high", "guidance_scale": 3, "use_mtp": True,
    "negative_prompt_ids": torch.ones(1, 2), "negative_prompt_attention_mask": torch.ones(1, 2),
    "assistant_model": object(), "prompt_lookup_num_tokens": 3, "assistant_early_exit": 2, "speculation_type": "dflash",
    "is_assistant": True, "token_healing": True, "output_attentions": True, "output_hidden_states": True,
    "cache_config": {"nbits": 4}, "past_key_values": object(), "cache_params": object(), "compile_config": object(),
    "continuous_batching_config": object(), "custom_generate": "somebody/something", "synced_gpus": True,
}  # fmt: skip


def test_every_setting_of_transformers_stands_in_one_list():
    """A new field of transformers fails here until somebody has put it to the test."""
    fields = {n for n in vars(GenerationConfig()) if not n.startswith("_")} - {"transformers_version"}
    taken = set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs", "inputs"}
    beside = set(inspect.signature(GenerationMixin._extract_generation_mode_kwargs).parameters)
    asked = fields | (taken - {"generation_config"}) | (beside - {"self", "kwargs"})
    lists = [table.EXACT, table.IDLE, frozenset(table.REFUSED)]
    assert {name: sum(name in one for one in lists) for name in asked} == dict.fromkeys(asked, 1)
    assert set(ASKED) == set(table.REFUSED)


@pytest.mark.parametrize("name", ASKED)
def test_what_changes_a_pass_is_refused_by_name(name):
    model, (prompt, _) = wrapped("qwen"), prompt_of("qwen")
    said = rf"(?s)^{name} is .*; interventions are defined for one pass a token: .*Take .*or run without interventions"
    with pytest.raises(InputError, match=said):
        model.generate(prompt, EDIT, **{name: ASKED[name]})
    with pytest.raises(InputError, match=said):
        model.generate(prompt, names_filter="hook_embed", **{name: ASKED[name]})


LAID = ["num_beams", "guidance_scale", "penalty_alpha", "prompt_lookup_num_tokens", "dola_layers", "token_healing"]


@pytest.mark.parametrize("name", LAID)
def test_it_is_refused_wherever_it_was_set(name, monkeypatch):
    model, (prompt, _) = wrapped("llava"), prompt_of("llava")
    with pytest.raises(InputError, match=f"^{name} of generation_config= is "):
        model.generate(prompt, EDIT, generation_config=GenerationConfig(**{name: ASKED[name]}))
    monkeypatch.setattr(model.hf.generation_config, name, ASKED[name])
    with pytest.raises(
        InputError, match=f"^{name} of the checkpoint's generation config is .*generation_config.{name} ="
    ):
        model.generate(prompt, EDIT)
    off = {"num_beams": 1, "guidance_scale": None, "penalty_alpha": 0.0, "token_healing": False}.get(name)
    assert model.generate(prompt, EDIT, max_new_tokens=2, **{name: off}).tokens.shape == (3, 2)


@pytest.mark.parametrize(
    "kind", ["quantized", "offloaded", "offloaded_static", "offloaded_hybrid", "paged", "made up", 3]
)
def test_a_cache_that_is_not_proved_is_refused_wherever_it_was_set(kind, monkeypatch):
    model, (prompt, _) = wrapped("llava"), prompt_of("llava")
    with pytest.raises(InputError, match=rf"cache_implementation is {kind!r}; .*'dynamic'.*'static'"):
        model.generate(prompt, EDIT, cache_implementation=kind)
    monkeypatch.setattr(model.hf.generation_config, "cache_implementation", kind)
    with pytest.raises(InputError, match=rf"cache_implementation of the checkpoint's generation config is {kind!r}"):
        model.generate(prompt, EDIT)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_new_tokns": 3}, UnknownName, "generate knows no setting 'max_new_tokns'.*'max_new_tokens'"),
        ({"temprature": 0.3}, UnknownName, "no setting 'temprature'.*'temperature'"),
        ({"image": 3}, UnknownName, "no setting 'image'"),
        ({"generation_config": GenerationConfig(num_beems=3)}, UnknownName, "holds 'num_beems'.*'num_beams'"),
        ({"generation_config": {"num_beams": 1}}, InputError, "generation_config is dict"),
        ({"input_ids": 1}, InputError, "input_ids= is a part of the prompt"),
        ({"attention_mask": 1}, InputError, "attention_mask= is a part of the prompt"),
        ({"max_length": 80, "max_new_tokens": 3}, InputError, "max_length is 80 and max_new_tokens 3; give one"),
        ({"max_length": 7}, InputError, "max_length is 7, and the prompt has"),
        ({"max_new_tokens": True}, InputError, "max_new_tokens is True"),
        ({"num_return_sequences": 2}, InputError, "num_return_sequences is 2 without sampling"),
        ({"num_return_sequences": 0}, InputError, "num_return_sequences is 0"),
        ({"do_sample": True, "top_k": -2}, InputError, "cannot be meant: .*top_k"),
        ({"do_sample": True, "temperature": 0.0}, InputError, "cannot be meant: .*temperature"),
    ],
)
@pytest.mark.parametrize("edit", [None, EDIT])
def test_what_cannot_be_meant_is_refused_before_anything_runs(edit, settings, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        wrapped("qwen").generate(prompt_of("qwen")[0], edit, **settings)


def test_an_unknown_entry_of_a_checkpoint_and_forward_arguments_are_refused_under_edits(monkeypatch):
    model, (prompt, _) = wrapped("llava"), prompt_of("llava")
    with pytest.raises(InputError, match="vision_feature_layer is 1; it is not known to leave a generation one pass"):
        model.generate(prompt, EDIT, vision_feature_layer=1)
    monkeypatch.setattr(model.hf.generation_config, "num_beems", 3, raising=False)
    with pytest.raises(InputError, match="num_beems of the checkpoint's generation config is 3"):
        model.generate(prompt, EDIT)
    monkeypatch.setattr(model.hf.config, "num_beams", 3, raising=False)
    with pytest.raises(InputError, match=r"config holds settings of a generation \(num_beams\)"):
        model.generate(prompt)


def test_a_generation_config_says_what_keywords_say():
    model, (prompt, _) = wrapped("qwen"), prompt_of("qwen")
    said = GenerationConfig(do_sample=True, temperature=1.7, max_new_tokens=3, output_scores=True)
    torch.manual_seed(5)
    found = model.generate(prompt, EDIT, generation_config=said)
    torch.manual_seed(5)
    again = model.generate(prompt, EDIT, 3, do_sample=True, temperature=1.7, output_scores=True)
    assert torch.equal(found.sequences, again.sequences) and torch.equal(found.scores, again.scores)
    assert torch.equal(
        model.generate(prompt, EDIT, generation_config=said, do_sample=False).tokens,
        model.generate(prompt, EDIT, max_new_tokens=3).tokens,
    )
    assert model.generate(prompt, EDIT, max_length=prompt.n_pos + 2).tokens.shape == (3, 2)

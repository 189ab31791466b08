"""A kernel that not every part of a model supports."""

from __future__ import annotations

import pytest

import lostattn as la
from lostattn.checkpoint.attention_choice import by_part, other_parts
from lostattn.conformance.models import build, small_config
from lostattn.errors import InputError


def test_a_part_without_the_kernel_runs_eager_and_a_warning_says_so():
    with pytest.warns(UserWarning, match="GotOcr2.* supports 'sdpa' in text_config alone; its other parts run eager"):
        module = build("got_ocr2", "sdpa")
    assert other_parts(module.config) == {"vision_config": "eager"}
    assert la.load(module, selftest=False).cfg.attn_implementation == "sdpa"
    with pytest.warns(UserWarning, match="supports 'flex_attention' in text_config alone"):
        module = build("got_ocr2", "flex_attention")
    assert la.load(module, attn_implementation="flex_attention", selftest=False).hf is module  # as it was loaded


def test_a_folder_is_loaded_with_the_kernel_where_it_runs(tmp_path):
    build("got_ocr2", "eager").save_pretrained(tmp_path)
    tokens = la.load("tiny-llava", selftest=False).processor
    with pytest.warns(UserWarning, match="supports 'sdpa' in text_config alone"):
        model = la.load(tmp_path, processor=tokens, selftest=False)
    assert model.cfg.attn_implementation == "sdpa" and other_parts(model.hf.config) == {"vision_config": "eager"}


def test_a_decoder_without_the_kernel_says_how_to_load_it():
    with pytest.raises(InputError, match=r"no decoder of Inkling2.* with attn_implementation='sdpa' .*='eager'"):
        build("inkling2", "sdpa")  # its vision tower alone has it


def test_every_part_of_an_ordinary_model_has_the_kernel():
    from transformers import LlavaForConditionalGeneration

    parts = by_part(LlavaForConditionalGeneration, small_config("llava"), "sdpa")
    assert parts == {"": "sdpa", "vision_config": "sdpa", "text_config": "sdpa"}


def test_another_refusal_passes_through():
    with pytest.raises(ValueError, match="nonsense"):
        build("llava", "nonsense")

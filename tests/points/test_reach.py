"""Prompts of another model, and edits of attention that no query would notice, are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image

import lostattn as la
from lostattn.errors import InputError


@pytest.fixture(scope="module")
def pictures():
    return [Image.new("RGB", (48, 48), (200, 30, 30))]


def test_a_prompt_of_another_model_is_refused(tiny_llava, tiny_qwen, pictures):
    prompt = tiny_llava.prompt("How many red squares?", images=pictures)
    message = r"made by another model's processor \(LlavaProcessor, \d+ tokens, .*\), but .* is Qwen2_5_VLProcessor, "
    for call in (tiny_qwen.forward, tiny_qwen.run_with_cache, tiny_qwen.generate, tiny_qwen.selftest):
        with pytest.raises(InputError, match=message):
            call(prompt)
    with pytest.raises(InputError, match="Make it again with this model's own model.prompt"):
        tiny_qwen.forward(prompt[0])
    tiny_llava.forward(prompt.to("cpu"))


def test_a_prompt_is_for_every_model_of_its_kind_and_for_no_other(tiny_llava, pictures):
    """Another copy of the weights takes it; a tower for larger pictures, with the same processor, does not."""
    prompt = tiny_llava.prompt("How many red squares?", images=pictures)
    config = copy.deepcopy(tiny_llava.hf.config)
    twin = type(tiny_llava.hf)._from_config(config).eval()
    la.load(twin, processor=copy.copy(tiny_llava.processor), selftest=False).forward(prompt)
    config.vision_config.image_size *= 2
    wider = la.load(type(twin)._from_config(config).eval(), processor=tiny_llava.processor, selftest=False)
    with pytest.raises(InputError, match=r"pictures of 48 pixels, .*, but that of .* pictures of 96 pixels"):
        wider.forward(prompt)


@pytest.mark.parametrize(
    ("queries", "keys"), [("image", "last"), ("system", "image"), (0, "question"), ("image:0", "question|last")]
)
def test_queries_that_stand_before_their_keys_are_refused(tiny_model, pictures, queries, keys):
    prompt = tiny_model.prompt("How many red squares?", images=pictures)
    for edit in (la.KnockOut(queries, keys), la.ScaleAttention(0.5, queries, keys, layers=[1])):
        with pytest.raises(InputError, match="queries that all stand before their keys.*other way round"):
            tiny_model.run_with_cache(prompt, interventions=edit)


def test_queries_that_see_some_of_their_keys_are_not_refused(tiny_model, pictures):
    prompt = tiny_model.prompt("How many red squares?", images=pictures)
    bare = tiny_model.forward(prompt)
    for queries, keys in (("last", "image"), ("image", "image"), ("all", "last"), ("question", "image|last")):
        moved, _ = tiny_model.run_with_cache(prompt, [], interventions=la.KnockOut(queries, keys))
        assert not torch.equal(moved, bare)


def test_a_batch_is_refused_only_where_no_item_has_such_a_query(tiny_model, pictures):
    """In the second item the question stands before the picture."""
    mark = tiny_model.processor.image_token
    after = f"How many red squares? {mark}"
    batch = tiny_model.prompt(["How many red squares?", after], images=[pictures, pictures])
    tiny_model.run_with_cache(batch, [], interventions=la.KnockOut("question", "image"))
    with pytest.raises(InputError, match="all stand before their keys"):
        tiny_model.run_with_cache(batch, [], interventions=la.KnockOut("system", "image"))

"""What a pass makes of conversations: edits by turn, generated turns, saved maps, data sets."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import lostattn as la
from lostattn.errors import InputError

PATTERN = "blocks.2.attn.hook_pattern"


@pytest.fixture(scope="module")
def questions():
    return la.data.load("shapes", split="test", n=24, seed=0)


@pytest.fixture(scope="module")
def messages(questions):
    shown = {"type": "image", "image": questions[0].images[0]}
    return [
        {"role": "user", "content": [shown, {"type": "text", "text": "What colour is it?"}]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": [{"type": "text", "text": "and the square?"}]},
    ]


def test_the_words_of_all_turns_are_told_apart(tiny_model, messages):
    """Those of a first turn are neither separators nor the question's, however the prompt was made."""
    made = tiny_model.prompt(messages)
    for prompt in (made, tiny_model.prompt(inputs=made.inputs), tiny_model.prompt(messages=messages)):
        asked = [t for t, m in zip(prompt.str_tokens[0], prompt.token_map["question"][0], strict=True) if m]
        assert "".join(asked).strip() == "and the square?" and len(asked) <= 6
        assert prompt.texts == ("and the square?",)
        assert not (prompt.token_map["separator"] & prompt.token_map["turn:0"]).any()
        history = [t.strip() for t, m in zip(prompt.str_tokens[0], prompt.token_map["history"][0], strict=True) if m]
        assert "".join(history) == "Whatcolourisit?red"


@pytest.mark.parametrize("keys", ["text", "history", "turn:0", "assistant:0", "user:-1"])
def test_what_is_knocked_out_is_not_looked_at(tiny_llava, messages, keys):
    prompt = tiny_llava.prompt(messages)
    assert prompt.token_map[keys].any()
    _, before = tiny_llava.run_with_cache(prompt, names_filter=PATTERN)
    _, after = tiny_llava.run_with_cache(prompt, names_filter=PATTERN, interventions=la.KnockOut("last", keys))
    chosen = prompt.token_map[keys][0]
    if keys == "text":  # all of the last row's own words are among them, itself too
        words = prompt.token_map["history|question"][0]
        assert float(after[PATTERN][0, :, -1, words].abs().max()) == 0.0
    assert float(before[PATTERN][0, :, -1, chosen].sum()) > 0.0
    assert float(after[PATTERN][0, :, -1, chosen].abs().max()) == 0.0


def test_what_is_generated_is_a_new_turn_of_the_models_own(tiny_llava, messages):
    edit = la.KnockOut("assistant:1", "turn:0")
    said = tiny_llava.generate(
        tiny_llava.prompt(messages), max_new_tokens=2, interventions=edit, names_filter=PATTERN, min_new_tokens=2
    )
    found = said.cache.prompt.token_map
    assert found.roles == (("user", "assistant", "user", "assistant"),)
    # The last token is never read: the cache's prompt ends with the first.
    assert torch.equal(found["assistant:1"], found["answer"]) and int(found["answer"].sum()) == 1
    rows = said.cache[PATTERN][0][:, found["assistant:1"][0]]
    assert float(rows[..., found["turn:0"][0]].abs().max()) == 0.0
    going = tiny_llava.prompt([*messages, {"role": "assistant", "content": "It is"}])
    went = tiny_llava.generate(going, max_new_tokens=2, names_filter=PATTERN, min_new_tokens=2)
    longer = went.cache.prompt.token_map
    assert longer.roles == going.token_map.roles
    assert int(longer["assistant:1"].sum()) == int(going.token_map["assistant:1"].sum()) + 1


def test_a_saved_map_keeps_its_turns(tiny_llava, messages, tmp_path):
    prompt = tiny_llava.prompt([messages, messages[:1]])
    _, cache = tiny_llava.run_with_cache(prompt, names_filter=PATTERN)
    again = la.ActivationCache.load(cache.save(tmp_path / "cache.safetensors"), tiny_llava).prompt.token_map
    assert torch.equal(again.turn_index, prompt.token_map.turn_index) and again.roles == prompt.token_map.roles


def test_a_conversation_is_no_data_set(tiny_llava, messages):
    metric = {"first": lambda logits: logits[:, -1, 5]}
    table = tiny_llava.measure([messages, messages[:1]], metric, progress=False)
    assert len(table) == 2
    with pytest.raises(InputError, match="one conversation"):
        tiny_llava.measure(messages, metric, progress=False)


@pytest.mark.parametrize("own", [False, True])
def test_pictures_stand_where_a_question_says(tiny_model, questions, own):
    """By the placeholder that any model takes, or by the processor's own."""
    asked = next(one for one in questions if len(one.images) == 2)
    mark = tiny_model.processor.image_token if own else "<image>"
    placed = dataclasses.replace(asked, text=f"Of {mark} and {mark}: {asked.text}")
    prompt = tiny_model.prompt(placed)
    places = [int((prompt.token_map.image_index[0] == k).nonzero()[0]) for k in (0, 1)]
    said = ["".join(prompt.str_tokens[0][a:b]) for a, b in ((0, places[0]), (places[0], places[1]), (places[1], None))]
    assert "Of" in said[0] and "and" in said[1] and asked.text in said[2] and "and" not in said[2]
    table = la.experiments.probe(tiny_model, la.data.Questions([placed]), {"none": la.Ablate("mlp")}, progress=False)
    assert set(table["condition"]) == {"untouched", "none"}
    with pytest.raises(InputError, match="3 image placeholders"):
        tiny_model.prompt(f"Of {mark} and {mark}, {mark}?", images=list(asked.images))

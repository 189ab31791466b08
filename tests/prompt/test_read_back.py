"""Prompts of several turns, and of words between pictures, that are read back from a processor's output."""

from __future__ import annotations

import families
import pytest
import small_processors
import torch
from painting import noise

from lostattn.errors import InputError
from lostattn.prompt import build_prompt
from lostattn.prompt.assemble import placeholder

# PaliGemma's processor makes an array of a tensor in a way that numpy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = [name for name in families.MAKERS if name != "gemma3 with pan and scan"]
PICTURES = [noise(100, 60), noise(60, 90, 1)]
INTERLEAVED = ["{0} is A, {0} is B. Same?", "First {0} then red", "Look:\n{0}\nIs it red?\n{0}", "{0} is the first"]


def chosen(given, spec: str) -> str:
    mask = given.token_map[spec][0].tolist()
    return "".join(t for t, m in zip(given.str_tokens[0], mask, strict=True) if m)


def made_elsewhere(processor, text: str, pictures, config, **known):
    """A prompt of the output of the processor on a whole text."""
    out = processor(text=[text], images=[pictures] if pictures else None, return_tensors="pt", add_special_tokens=False)
    return build_prompt(processor, config, inputs={k: v for k, v in out.items() if k != "labels"}, **known)


@pytest.mark.parametrize("written", INTERLEAVED)
@pytest.mark.parametrize("name", NAMES)
def test_words_beside_and_between_pictures_are_text(name, written):
    """The map of the words that the prompt was made of, or the item says that it could not be told."""
    family = families.family(name)
    mark = placeholder(family.processor, family.config)
    text = written.format(mark)
    made = build_prompt(family.processor, family.config, text, images=PICTURES[: text.count(mark)])
    again = build_prompt(family.processor, family.config, inputs=made.inputs)
    if again.token_map.located == (True,):
        assert torch.equal(again.token_map.part, made.token_map.part)
    else:  # pictures without sizes, whose marks are plain text, are taken for one
        assert name == "idefics3" and text.count(mark) == 2
        assert not (again.token_map["separator"] & made.token_map["question"]).any()
        with pytest.raises(InputError, match="could not be told apart"):
            again.token_map["question"]
    said = text.split(mark)[0].strip(), text.split(mark)[1].strip()
    assert all(one in chosen(again, "text") for one in said)


TURNS = {
    "llava": ("USER: ", " ASSISTANT:", " red USER: ", "<image>\n"),
    "llava_next": ("[INST] ", " [/INST]", " red</s>[INST] ", "<image>\n"),
    "qwen2_vl": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n", "red<|im_end|>\n<|im_start|>user\n",
        "<|vision_start|><|image_pad|><|vision_end|>",
    ),
    "qwen3_5": (
        "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "red<|im_end|>\n<|im_start|>user\n", "<|vision_start|><|image_pad|><|vision_end|>",
    ),
    "internvl": (
        "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "red<|im_end|>\n<|im_start|>user\n",
        "<IMG_CONTEXT>\n",
    ),
    "gemma3": (
        "<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n",
        "red<end_of_turn>\n<start_of_turn>user\n", "<start_of_image>",
    ),
    "smolvlm": (
        "<|im_start|>User:", "<end_of_utterance>\nAssistant:", " red<end_of_utterance>\nUser:", "<image>",
    ),
    "pixtral": ("<s>[INST]", "[/INST]", " red<eos>[INST]", "[IMG]"),
}  # fmt: skip
"""For each family what opens a user's first turn, an answer, and an answer with the next turn, and a picture."""


@pytest.mark.parametrize("shape", ["one picture", "a picture a turn", "no picture", "without an opening"])
@pytest.mark.parametrize("name", TURNS)
def test_turns_that_are_written_by_hand_are_told(name, shape):
    """With white space of their own, and without what closes an answer where that was left out."""
    family = families.family(name)
    opens, asks, goes_on, picture = TURNS[name]
    first = "" if shape == "no picture" else picture
    second = picture if shape == "a picture a turn" else ""
    text = f"{opens}{first}How many red squares?{asks}{goes_on}{second}Is it there?"
    if shape != "without an opening":
        text += asks
    given = made_elsewhere(family.processor, text, PICTURES[: bool(first) + bool(second)], family.config)
    assert given.token_map.located == (True,) and given.token_map.roles == (("user", "assistant", "user"),)
    history = given.token_map["history"]
    said = [
        "".join(t for t, m in zip(given.str_tokens[0], (history & given.token_map[turn])[0].tolist(), strict=True) if m)
        for turn in ("turn:0", "assistant:0")
    ]
    assert [one.strip() for one in said] == ["How many red squares?", "red"]
    assert chosen(given, "question").strip() == "Is it there?" and not given.token_map["answer"].any()


@pytest.mark.parametrize("name", TURNS)
def test_a_question_that_is_named_among_several_turns_names_no_other_words(name):
    family = families.family(name)
    opens, asks, goes_on, picture = TURNS[name]
    text = f"{opens}{picture}How many red squares?{asks}{goes_on}Is it there?{asks}"
    given = made_elsewhere(family.processor, text, PICTURES[:1], family.config, question_or_text="Is it there?")
    assert given.token_map.located == (True,) and chosen(given, "question").strip() == "Is it there?"


@pytest.mark.parametrize("name", TURNS)
def test_one_turn_and_the_answer_so_far_are_known(name):
    family = families.family(name)
    opens, asks, _, picture = TURNS[name]
    given = made_elsewhere(
        family.processor, f"{opens}{picture}How many red squares?{asks} two", PICTURES[:1], family.config
    )
    assert given.token_map.located == (True,)
    assert chosen(given, "question") == "How many red squares?" and chosen(given, "answer").strip() == "two"


def test_the_words_of_a_first_turn_are_neither_separators_nor_the_question():
    processor, config = small_processors.llava()
    text = "USER: <image>\nHow many red squares? ASSISTANT: red USER: and the square? ASSISTANT:"
    given = made_elsewhere(processor, text, PICTURES[:1], config)
    assert given.token_map.located == (True,) and chosen(given, "question").strip() == "and the square?"
    assert chosen(given, "history").split() == ["How", "many", "red", "squares?", "red"]
    assert not given.token_map["separator"].any()


def test_a_question_may_hold_the_word_that_opens_an_answer_where_it_is_given():
    family = families.family("llava")
    asked = "Who is ASSISTANT: here?"
    text = f"USER: <image>\n{asked} ASSISTANT:"
    given = made_elsewhere(family.processor, text, PICTURES[:1], family.config, question_or_text=asked)
    assert given.token_map.located == (True,) and chosen(given, "question") == asked


def test_crops_are_told_from_words_where_the_picture_is_given():
    family, picture = families.family("gemma3 with pan and scan"), noise(700, 290)
    made = build_prompt(family.processor, family.config, "Is it red?", images=[picture])
    again = build_prompt(family.processor, family.config, inputs=made.inputs, images=[picture])
    assert again.token_map.located == (True,) and torch.equal(again.token_map.part, made.token_map.part)
    # Without it crops are taken for pictures, and which words are the processor's own is not known.
    assert build_prompt(family.processor, family.config, inputs=made.inputs).token_map.located == (False,)

"""Tokenizers, configurations and the training loop, before any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lostattn.data.asking import CHOICES
from lostattn.data.scene import Object, make_scene
from lostattn.errors import InputError, UnknownName
from lostattn.zoo.course import SECOND_MIX, Part
from lostattn.zoo.lessons import LESSONS, TAUGHT, teach
from lostattn.zoo.recipe import NAMES, build_model, build_processor, build_tokenizer
from lostattn.zoo.train import Sampler, cell_targets, train

_LED_BY = {"tiny-llava": " ", "tiny-qwen2_5-vl": ""}


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_one_token_where_the_template_ends(name: str) -> None:
    processor: Any = build_processor(name)
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "What colour is the cross?"}]}],
        add_generation_prompt=True,
    )
    before = processor.tokenizer(prompt)["input_ids"]
    for answer in {a for choices in CHOICES.values() for a in choices}:
        whole = processor.tokenizer(prompt + _LED_BY[name] + answer)["input_ids"]
        assert whole[:-1] == before, answer
        assert processor.tokenizer.decode(whole[-1:]).strip() == answer


@pytest.mark.parametrize("name", NAMES)
def test_any_text_survives_the_tokenizer(name: str) -> None:
    tokenizer = build_tokenizer(name)
    text = "Où est le triangle ?\n\tδ = 3·x², 猫 🜚 <b>"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert 256 < len(tokenizer) < 640
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_templates_are_those_of_the_public_models() -> None:
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it?"}]}]
    llava, qwen = (build_processor(name).apply_chat_template(chat, add_generation_prompt=True) for name in NAMES)
    assert llava == "USER: <image>\nIs it? ASSISTANT:"
    assert qwen == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Is it?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert build_processor(NAMES[1]).apply_chat_template(told).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


@pytest.mark.parametrize("name", NAMES)
def test_no_special_id_stands_above_the_vocabulary(name: str) -> None:
    tokenizer = build_tokenizer(name)
    model: Any = build_model(name, tokenizer)
    for config in (model.config, model.config.text_config, model.generation_config):
        for key, value in config.to_dict().items():
            if key.endswith("_token_id") and value is not None:
                assert 0 <= value < len(tokenizer), key
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_qwen_has_what_its_family_has() -> None:
    config: Any = build_model(NAMES[1], build_tokenizer(NAMES[1])).config
    assert config.text_config.num_key_value_heads < config.text_config.num_attention_heads
    assert config.text_config.num_hidden_layers >= 6
    assert 0 < len(config.vision_config.fullatt_block_indexes) < config.vision_config.depth
    assert sum(config.text_config.rope_parameters["mrope_section"]) == 128 // 8 // 2


def test_an_unknown_model_brings_the_nearest() -> None:
    with pytest.raises(UnknownName, match="No tiny model is called 'tiny-lava'.*Did you mean 'tiny-llava'"):
        build_tokenizer("tiny-lava")


def test_cell_targets_name_what_stands_under_a_token() -> None:
    scene = make_scene([Object(0, 2, "square", "red"), Object(2, 0, "cross", "yellow")])
    found = cell_targets([scene], (4, 6)).reshape(4, 6)
    square, cross = 1 + 0 * 4 + 1, 1 + 3 * 4 + 3
    assert found.tolist() == [
        [0, 0, 0, 0, square, square],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [cross, cross, 0, 0, 0, 0],
    ]


def test_training_questions_are_of_their_split_and_balanced() -> None:
    from lostattn.zoo.packing import family_of

    sampler = Sampler(family_of(build_processor(NAMES[0])), "train", np.random.default_rng(0))
    _, _, scenes, _ = sampler.batch(40)
    assert {scene.split for scene in scenes} == {"train"}
    for kind, choices in CHOICES.items():
        counts = sorted(sampler.counts[kind, answer] for answer in choices)
        rarest = counts[1] if kind == "counting" else counts[0]  # few scenes hold three alike
        assert counts[-1] - rarest <= 0.2 * sum(counts), (kind, counts)


def test_lessons_are_right() -> None:
    scene = make_scene([Object(0, 2, "square", "red"), Object(2, 0, "cross", "yellow")])
    rng = np.random.default_rng(0)
    assert teach("column", "2", scene, rng) == "Which column has the red square?"
    assert teach("row", "2", scene, rng) == "Which row has the yellow cross?"
    assert teach("row", "1", scene, rng) is None
    for letter in "ABCD":
        text = teach("option", letter, scene, rng) or ""
        word = text.removeprefix("Which option is ").partition("?")[0]
        assert f"\n{letter}. {word}\n" in text
    assert set(TAUGHT) == {*CHOICES, *LESSONS}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_short_training_learns_saves_and_can_be_repeated(name: str, tmp_path: Path) -> None:
    first = Part(steps=40, stop=8, scenes=2, warmup=2, lr=3e-3, log_every=4, check_every=8)
    second = Part(steps=3, scenes=1, mix=SECOND_MIX, muon_lr=1e-3, stream=(5,), log_every=2, check_every=9)
    logs: list[list[dict[str, Any]]] = [[], []]
    for i, log in enumerate(logs):
        train(name, tmp_path / str(i), seed=3, course=[first, second], questions=0, log=log.append)
    header, *lines = logs[0]
    assert (header["name"], header["seed"], header["parts"][1]["muon_lr"]) == (name, 3, 1e-3)
    assert [(line["part"], line["step"]) for line in lines] == [(1, 4), (1, 8), (2, 2), (2, 3)]
    assert lines[1]["answer"] < lines[0]["answer"]
    assert lines[2]["questions"] > lines[1]["questions"]
    assert set(lines[1]["kinds"]) == set(CHOICES)
    assert set(lines[3]["kinds"]) <= set(TAUGHT)
    assert set(lines[3]["val"]) == {"all", *CHOICES}
    # The same operations in the same order: the same bits.
    assert [line["answer"] for line in lines] == [line["answer"] for line in logs[1][1:]]
    written = (tmp_path / "0" / "train_log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == json.loads(json.dumps(logs[0]))

    from transformers import AutoModelForImageTextToText

    a, b = (AutoModelForImageTextToText.from_pretrained(tmp_path / str(i)) for i in range(2))
    assert a.dtype == torch.float32
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="Cannot write to .*Name a folder you may write to"):
        train("tiny-llava", tmp_path / "file")

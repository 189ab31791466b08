"""Packed rows compute exactly what single prompts compute, through the real processor and the real model."""

from __future__ import annotations

from typing import Any

import bounds
import numpy as np
import pytest
import torch
from PIL import Image

import lostattn as la
from lostattn.data.asking import KINDS
from lostattn.zoo.packing import Asked, Packer, QwenFamily, family_of, packed_hidden, training_attention
from lostattn.zoo.recipe import NAMES, build_model, build_processor
from lostattn.zoo.train import Sampler

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=NAMES)
def parts(request: pytest.FixtureRequest) -> tuple[Any, Any, Packer]:
    torch.manual_seed(0)
    processor = build_processor(request.param)
    model: Any = build_model(request.param, processor.tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():  # no zero bias or norm of one hides a fault
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval(), processor, Packer(family_of(processor))


def _single(model: Any, processor: Any, asked: Asked, pictures: list[np.ndarray]) -> torch.Tensor:
    content = [{"type": "image"}] * asked.n_images + [{"type": "text", "text": asked.text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [Image.fromarray(p) for p in pictures[: asked.n_images]]
    return model(**processor(text=[prompt], images=[images], return_tensors="pt")).logits[0, -1]


def deep(model: Any) -> float:
    """How far two passes may lie apart."""
    return bounds.depth(la.load(model, selftest=False).cfg)


@torch.no_grad()
@pytest.mark.parametrize("ours", [False, True])
def test_packed_equals_single(parts: tuple[Any, Any, Packer], ours: bool) -> None:
    model, processor, packer = parts
    sampler = Sampler(packer.family, "train", np.random.default_rng(3))
    for _ in range(2):  # two sizes of picture
        rows, pictures, _, size = sampler.batch(2)
        packed = packer.pack(rows, size)
        features = packer.family.encode(model, packer.family.pixels(pictures), size)
        if ours:
            with training_attention(model):
                hidden = packed_hidden(model, packer.family, packed, features)
        else:
            hidden = packed_hidden(model, packer.family, packed, features)
        found = model.lm_head(hidden[packed.rows, packed.columns])
        single = torch.stack(
            [
                _single(model, processor, asked, pictures[2 * r : 2 * r + 2])
                for r, row in enumerate(rows)
                for asked in row
            ]
        )
        assert {a.kind for row in rows for a in row} == set(KINDS)
        share = deep(model)
        bounds.close(found, single, share)
        assert single.std(0).max() > 100 * share * single.abs().max()  # the prompts do differ


@torch.no_grad()
def test_questions_of_a_row_do_not_see_each_other(parts: tuple[Any, Any, Packer]) -> None:
    model, _, packer = parts
    rows, pictures, _, size = Sampler(packer.family, "train", np.random.default_rng(5)).batch(1)
    features = packer.family.encode(model, packer.family.pixels(pictures), size)

    def first_and_last(row: list[Asked]) -> torch.Tensor:
        packed = packer.pack([row], size)
        hidden = packed_hidden(model, packer.family, packed, features)
        return hidden[packed.rows, packed.columns][[0, -1]]

    (row,) = rows
    fewer = [row[0], *(a for a in row[1:-1] if a.kind == "comparison"), row[-1]]
    bounds.close(first_and_last(row), first_and_last(fewer), deep(model))


def test_pixels_are_the_processors(parts: tuple[Any, Any, Packer]) -> None:
    _, processor, packer = parts
    pictures = np.random.default_rng(0).integers(0, 256, (3, 60, 60, 3)).astype(np.uint8)
    images = [Image.fromarray(p) for p in pictures]
    real = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    ours = packer.family.pixels(list(pictures))
    bounds.close(ours.reshape(real.shape), real, bounds.sums(3))  # a factor, a mean and a deviation


@torch.no_grad()
@pytest.mark.parametrize("size", [(48, 60), (72, 72)])
def test_the_batched_tower_is_the_models_tower(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    processor = build_processor("tiny-qwen2_5-vl")
    model: Any = build_model("tiny-qwen2_5-vl", processor.tokenizer)
    family = family_of(processor)
    assert isinstance(family, QwenFamily)
    pictures = np.random.default_rng(1).integers(0, 256, (2, size[1], size[0], 3)).astype(np.uint8)
    pixels = family.pixels(list(pictures))
    grid = torch.tensor([[1, size[1] // 6, size[0] // 6]] * 2)
    real = model.model.get_image_features(pixels.flatten(0, 1), grid, return_dict=True).pooler_output
    ours = family.encode(model, pixels, size)
    bounds.close(ours, torch.stack(list(real)), deep(model))

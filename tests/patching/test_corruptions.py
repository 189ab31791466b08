"""Pictures spoilt on purpose: only the pixels meant, reproducibly, never the layout."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lostattn import patching
from lostattn.answers import answer_tokens, logit_difference
from lostattn.errors import InputError
from lostattn.image_layout import PatchGrid


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (35, 21, 3), dtype=np.uint8))


def test_blank_noise_and_blur() -> None:
    before = np.asarray(picture(), dtype=float)
    mean = np.asarray(patching.blank(picture()), dtype=float)
    assert (mean == mean[0, 0]).all() and np.abs(mean[0, 0] - before.mean((0, 1))).max() <= 0.5
    assert np.asarray(patching.blank(picture(), (1, 2, 3)))[4, 5].tolist() == [1, 2, 3]
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noisy = np.asarray(patching.noise(grey, 20.0, seed=3), dtype=float) - 128
    assert noisy.std() == pytest.approx(20, rel=0.02) and abs(noisy.mean()) < 0.3
    assert patching.noise(grey, seed=3).tobytes() == patching.noise(grey, seed=3).tobytes()
    assert patching.noise(grey, seed=3).tobytes() != patching.noise(grey, seed=4).tobytes()
    rough, smooth = (np.asarray(p, dtype=float) for p in (picture(), patching.blur(picture(), 2)))
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.3 * np.abs(np.diff(rough, axis=0)).mean()
    for function, keywords in ((patching.noise, {"strength": 0}), (patching.blur, {"radius": -1})):
        with pytest.raises(InputError, match="expected a number above 0"):
            function(picture(), **keywords)


def test_only_the_pixels_of_the_masked_patches_change() -> None:
    before = picture()
    grid = PatchGrid(5, 3, size=(21, 35), covers=(0.0, 0.0, 21.0, 35.0))
    after = np.asarray(patching.mask_patches(before, grid, [4, 14], (9, 8, 7)))
    changed = (after != np.asarray(before)).any(-1)
    expected = np.zeros((35, 21), dtype=bool)
    expected[7:14, 7:14] = expected[28:35, 14:21] = True
    assert (changed == expected).all()
    assert after[10, 10].tolist() == [9, 8, 7]
    with pytest.raises(InputError, match="patch 15 is out of range: the grid has 15 patches"):
        patching.mask_patches(before, grid, [15])
    with pytest.raises(InputError, match="no known place in a picture"):
        patching.mask_patches(before, PatchGrid(5, 3), [1])


def test_a_corrupted_question_keeps_everything_but_its_pixels(tiny_model, shapes_questions) -> None:
    question = shapes_questions[0]
    spoilt = patching.corrupt(question, "noise", strength=90, seed=1)
    assert spoilt.text == question.text and spoilt.answer == question.answer and spoilt.id != question.id
    a, b = tiny_model.prompt(question), tiny_model.prompt(spoilt)
    assert (a.inputs["input_ids"] == b.inputs["input_ids"]).all()
    assert (a.inputs["pixel_values"] != b.inputs["pixel_values"]).any()
    with pytest.raises(InputError, match="no corruption is called 'blurr'.*Did you mean 'blur'"):
        patching.corrupt(question, "blurr")
    with pytest.raises(InputError, match="keep the size"):
        patching.corrupt(question, lambda p: p.resize((10, 10)))
    with pytest.raises(InputError, match="holds 1 pictures"):
        patching.corrupt(question, "blank", images=[1])


def test_one_of_two_pictures_alone(shapes_questions) -> None:
    question = next(q for q in shapes_questions if len(q.images) == 2)
    spoilt = patching.corrupt(question, "blank", images=[1])
    assert spoilt.images[0].tobytes() == question.images[0].tobytes()
    assert spoilt.images[1].tobytes() != question.images[1].tobytes()


def test_another_scene_has_another_answer(shapes_questions) -> None:
    question = next(q for q in shapes_questions if q.kind == "colour")
    other = patching.another_scene(question, shapes_questions, seed=2)
    assert other.text == question.text and other.images[0].size == question.images[0].size
    source = next(q for q in shapes_questions if q.images == other.images)
    assert source.group != question.group
    assert patching.another_scene(question, shapes_questions, seed=2).id == other.id
    with pytest.raises(InputError, match="no other scene of 1 questions"):
        patching.another_scene(question, [question])


def test_the_picture_alone_moves_a_trained_model(tiny_llava, shapes_questions) -> None:
    """Blank the picture: the image's early stream carries the answer, and the last position's late stream does."""
    question = next(q for q in shapes_questions if q.kind == "colour")
    right = answer_tokens(tiny_llava, question)
    wrong = answer_tokens(tiny_llava, question, next(c for c in question.choices if c != question.answer))
    clean, corrupted = tiny_llava.prompt(question), tiny_llava.prompt(patching.corrupt(question, "blank"))
    table = patching.sweep(
        tiny_llava,
        clean,
        corrupted,
        lambda logits: logit_difference(logits, right, wrong),
        "resid_pre",
        positions=["image", "last"],
    )
    grid = table.pivot(index="layer", columns="positions", values="normalised")
    assert grid.loc[0, "image"] == pytest.approx(1.0, abs=1e-3)  # nothing else differs at the first layer
    assert grid.loc[0, "last"] == 0.0
    assert table.effect.abs().max() > 0.01

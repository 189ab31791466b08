"""Pictures spoilt on purpose: only the pixels meant, reproducibly, never the layout."""

from __future__ import annotations

import bounds
import numpy as np
import pytest
from PIL import Image

from lostattn import patching
from lostattn.answers import answer_tokens, logit_difference
from lostattn.data import load
from lostattn.data.asked import asked_objects
from lostattn.errors import InputError
from lostattn.pictures.patch_grid import PatchGrid


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
    for function, keywords, said in (
        (patching.noise, {"strength": 0}, "strength is 0; expected a number above 0"),
        (patching.blur, {"radius": 0}, "radius is 0; expected a number above 0"),
        (patching.blur, {"radius": -1}, "radius is -1; expected a finite number from 0 to 10000"),
    ):
        with pytest.raises(InputError, match=said):
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
    # Nothing else differs at the first layer: the clean run is back.
    restored = table[(table.layer == 0) & (table.positions == "image")]
    logits, share = tiny_llava(clean)[:, -1], bounds.passes(tiny_llava.hf, clean.inputs)
    bounds.close(restored.value, restored.clean, share, size=logits)
    assert bounds.moved(restored.clean, restored.corrupted, share, times=1e3, size=logits)
    assert grid.loc[0, "last"] == 0.0
    assert table.effect.abs().max() > 0.01


def test_a_covered_box_takes_the_mean_of_its_surroundings() -> None:
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:, 15:] = 90
    pixels[5:11, 12:18] = (255, 1, 2)
    after = np.asarray(patching.cover(Image.fromarray(pixels), (12, 5, 18, 11), border=2))
    assert (after[5:11, 12:18] == 45).all()  # half of the pixels around it are 0, and half 90
    changed = (after != pixels).any(-1)
    changed[5:11, 12:18] = False
    assert not changed.any()
    corner = np.asarray(patching.cover(Image.fromarray(pixels), (0, 0, 1.5, 0.5), border=1))
    assert (corner == pixels).all()  # black among black, and cut off at the edge
    painted = np.asarray(patching.cover(Image.fromarray(pixels), (0, 0, 1.5, 0.5), (7, 8, 9)))
    assert painted[0, :3].tolist() == [[7, 8, 9], [7, 8, 9], [0, 0, 0]]
    for box in ((3, 3, 3, 9), (-1, 0, 4, 4), (0, 0, 31, 4), (1, 2, 3)):
        with pytest.raises(InputError, match="expected .x0, y0, x1, y1. with x0 < x1 and y0 < y1, in .* 30 x 20"):
            patching.cover(Image.fromarray(pixels), box)
    with pytest.raises(InputError, match="nothing surrounds it"):
        patching.cover(Image.fromarray(pixels), (0, 0, 30, 20))
    with pytest.raises(InputError, match="border is 0; expected a number of pixels"):
        patching.cover(Image.fromarray(pixels), (0, 0, 3, 2), border=0)


def test_a_removed_object_leaves_the_rest_as_it_was(tiny_model, shapes_questions) -> None:
    for q in shapes_questions:
        for which, asked in enumerate(asked_objects(q)):
            bare = patching.remove_object(q, which)
            pairs = zip(q.images, bare.images, strict=True)
            changed = np.stack([(np.asarray(a) != np.asarray(b)).any(-1) for a, b in pairs])
            x0, y0, x1, y1 = asked.box
            assert changed[asked.image, y0:y1, x0:x1].mean() > 0.2
            changed[asked.image, y0:y1, x0:x1] = False
            assert not changed.any()
            assert bare.text == q.text and bare.group == q.group and bare.id != q.id
            assert asked.object not in [o for d in bare.scenes for o in d.scene.objects if d != q.scenes[0]]
            # Covering the box with what surrounds it comes to the same picture, on this plain ground.
            covered = patching.corrupt(q, "cover", images=[asked.image], box=asked.box, border=1)
            assert covered.images[asked.image].tobytes() == bare.images[asked.image].tobytes()
    colour = next(q for q in shapes_questions if q.kind == "colour")
    assert patching.remove_object(colour).answer == colour.answer  # there is none any more: the clean one's
    there = next(q for q in shapes_questions if q.kind == "existence" and q.answer == "yes")
    assert patching.remove_object(there).answer == "no"
    a, b = tiny_model.prompt(colour), tiny_model.prompt(patching.remove_object(colour))
    assert (a.inputs["input_ids"] == b.inputs["input_ids"]).all()


def test_a_recoloured_object_is_a_minimal_pair(tiny_llava) -> None:
    questions = load("shapes", n=60, seed=1, kinds=["colour", "choice"])
    answers = set()
    for q in questions:
        other = patching.recolour_object(q, seed=5)
        (asked,) = asked_objects(q)
        old, new = (np.asarray(x.images[0]).astype(int) for x in (q, other))
        x0, y0, x1, y1 = asked.box
        middle = (slice((y0 + y1) // 2, (y0 + y1) // 2 + 1), slice((x0 + x1) // 2, (x0 + x1) // 2 + 1))
        assert (old[middle] != new[middle]).any()  # every shape covers the middle of its box
        old[y0:y1, x0:x1] = new[y0:y1, x0:x1]
        assert (old == new).all()
        assert other.text == q.text and other.choices == q.choices and other.id != q.id
        if q.kind == "colour":
            assert other.answer != q.answer and other.id.endswith(f"now-{other.answer}")
            answers.add(other.answer)
        assert patching.recolour_object(q, seed=5).id == other.id
    assert answers == {"red", "green", "blue", "yellow"}
    q = questions.only("colour")[0]
    with pytest.raises(InputError, match=f"colour is {q.answer!r}; the {q.answer} .* can become"):
        patching.recolour_object(q, q.answer)
    with pytest.raises(InputError, match="colour is 'pink'"):
        patching.recolour_object(q, "pink")
    with pytest.raises(InputError, match="which is 1; question .* asks about 1 objects, 0 to 0"):
        patching.recolour_object(q, which=1)
    negative = next(q for q in load("shapes", n=4, seed=0, kinds=["existence"]) if q.answer == "no")
    with pytest.raises(InputError, match="asks about no single object"):
        patching.remove_object(negative)


def test_only_the_recoloured_patches_differ_before_the_tower(tiny_llava) -> None:
    """The pair's prompts differ in the pixels of the object's patches alone, and the answer follows the colour."""
    questions = load("shapes", n=12, seed=2, kinds=["colour"])
    others = [patching.recolour_object(q) for q in questions]
    clean, other = tiny_llava.prompt(questions), tiny_llava.prompt(others)
    boxes = [asked_objects(q)[0].box for q in questions]
    mask = clean.token_map.in_boxes(boxes)
    _, a = tiny_llava.run_with_cache(clean, "vision_encoder.hook_vision_embed")
    _, b = tiny_llava.run_with_cache(other, "vision_encoder.hook_vision_embed")
    differs = (a["vision_encoder.hook_vision_embed"] != b["vision_encoder.hook_vision_embed"]).any(-1)
    differs = differs[:, -int(clean.token_map["image"][0].sum()) :]  # without the tower's class token
    inside = mask[clean.token_map["image"]].reshape(differs.shape)
    # A resized picture bleeds by a pixel or two, so a neighbour may differ too; most of the others must not.
    assert (differs & inside).sum(1).min() >= 1
    assert differs[~inside].float().mean() < 0.25 < differs[inside].float().mean()
    right = tiny_llava.generate(clean, max_new_tokens=2).text
    found = tiny_llava.generate(other, max_new_tokens=2).text
    assert sum(t == q.answer for t, q in zip(right, questions, strict=True)) >= 10
    assert sum(t == q.answer for t, q in zip(found, others, strict=True)) >= 10

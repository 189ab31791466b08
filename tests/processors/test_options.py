"""Options of the image processor given with one prompt: they reach the processor, and the map follows them."""

from __future__ import annotations

import copy

import bounds
import families
import painting
import pytest
import torch
from painting import TEXT, grey, inside, noise, prompt

from lostattn.checkpoint.text_processor import TextProcessor
from lostattn.errors import InputError
from lostattn.prompt import build_prompt


def made(name, picture, **options):
    family = families.family(name)
    return build_prompt(family.processor, family.config, TEXT, images=[picture], images_kwargs=options)


def test_pan_and_scan_for_one_prompt_is_pan_and_scan_of_the_processor():
    picture = noise(700, 290)
    before = copy.deepcopy(families.family("gemma3").processor.to_dict())
    given, expected = made("gemma3", picture, do_pan_and_scan=True), prompt("gemma3 with pan and scan", picture)
    assert given.token_map.grids == expected.token_map.grids
    assert str(given.token_map.grids[0][0]) == "3 of 16 x 16"
    for field in ("part", "image_index", "patch_index"):
        assert torch.equal(getattr(given.token_map, field), getattr(expected.token_map, field)), field
    for key, value in expected.inputs.items():
        assert torch.equal(given.inputs[key], value), key
    # The processor is as it was: the next prompt has one view of the picture again.
    assert families.family("gemma3").processor.to_dict() == before
    assert str(made("gemma3", picture).token_map.grids[0][0]) == "16 x 16"


OPTIONS = [
    ("gemma3", (1000, 290), {"do_pan_and_scan": True, "pan_and_scan_max_num_crops": 2}, "3 of 16 x 16"),
    ("gemma3", (500, 240), {"do_pan_and_scan": True}, "16 x 16"),  # crops would be smaller than 256 pixels
    ("internvl", (500, 300), {"max_patches": 4}, "3 of 16 x 16"),  # 2 x 1 tiles and a thumbnail
    ("internvl", (500, 300), {"crop_to_patches": False}, "16 x 16"),
    ("idefics3", (500, 300), {"size": {"longest_edge": 728}}, "5 of 13 x 13"),
    ("smolvlm", (500, 300), {"do_image_splitting": False}, "9 x 9"),
    ("llava", (500, 300), {"do_center_crop": False, "size": {"height": 336, "width": 336}}, "24 x 24"),
    ("qwen2_5_vl", (500, 300), {"size": {"shortest_edge": 3136, "longest_edge": 28 * 28 * 20}}, "3 x 5"),
]


@pytest.mark.parametrize(("name", "size", "options", "grids"), OPTIONS)
def test_the_map_follows_the_options(name, size, options, grids):
    """The box of a corner patch, painted, changes the token that the map names and no other of its tile."""
    plain, painted = grey(*size), grey(*size)
    given = made(name, plain, **options)
    (grid,) = given.token_map.grids[0]
    assert str(grid) == grids
    tile = len(grid.tiles[-1])
    patch = len(grid) - 1
    painted.paste((255, 0, 127), inside(grid.boxes()[patch]))
    both = [painting.seen(name, one) for one in (given, made(name, painted, **options))]
    moved = bounds.changed(*both)
    changed = given.token_map.patch_index[0][moved]
    assert changed.min() >= 0 and changed[changed >= len(grid) - tile].tolist() == [patch]


def test_options_that_inputs_were_made_with():
    """Without them the tiles of a picture are counted wrongly, and have no place in it."""
    family, picture = families.family("internvl"), noise(500, 300)
    inputs, options = made("internvl", picture, max_patches=4).inputs, {"max_patches": 4}
    bare = build_prompt(family.processor, family.config, inputs=inputs, images=[picture]).token_map.grids[0]
    told = build_prompt(family.processor, family.config, inputs=inputs, images=[picture], images_kwargs=options)
    assert bare != told.token_map.grids[0]
    assert told.token_map.grids[0] == made("internvl", picture, max_patches=4).token_map.grids[0]


def test_options_of_the_processor_itself_are_followed():
    """What a caller lays down for every call, ``processor.images_kwargs``, is in effect without another word."""
    family = families.internvl()
    family.processor.images_kwargs = {**family.processor.images_kwargs, "max_patches": 4}
    given = build_prompt(family.processor, family.config, TEXT, images=[noise(500, 300)])
    assert given.token_map.grids == made("internvl", noise(500, 300), max_patches=4).token_map.grids


REFUSED = [
    ({"do_pan_and_scam": True}, r"'do_pan_and_scam', which cannot be given to Gemma3.* Did you mean 'do_pan_and_scan'"),
    ({"return_tensors": "np"}, r"'return_tensors'.*model.prompt sees to that one itself\. It takes .*do_resize"),
    ({"do_pan_and_scan": "yes"}, r"images_kwargs=.*cannot be taken: .*'do_pan_and_scan' expected bool, got str"),
    (["do_pan_and_scan"], r"images_kwargs= takes the options of the image processor by name.*got list"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_an_option_is_refused(options, message):
    family = families.family("gemma3")
    with pytest.raises(InputError, match=message):
        build_prompt(family.processor, family.config, TEXT, images=[noise(60, 60)], images_kwargs=options)


def test_a_model_without_an_image_processor_takes_no_options():
    family = families.family("gemma3")
    processor = TextProcessor(family.processor.tokenizer)
    with pytest.raises(InputError, match=r"was given 'do_resize', but of this model it has no image processor"):
        build_prompt(processor, family.config.text_config, "red", images_kwargs={"do_resize": False})


def test_a_picture_prepared_for_fewer_tiles_than_the_model_counts():
    with pytest.raises(InputError, match=r"says that it has 3 tiles .* pixel_values hold 2.*max_num_tiles"):
        made("mllama", noise(300, 1000), max_image_tiles=2)

"""Token maps on what the processors of fourteen families emit: parts, grids, tiles, newlines, pictures, batches."""

from __future__ import annotations

import bounds
import families
import painting
import pytest
import torch
from painting import TEXT, noise, prompt

from lostattn.prompt import build_prompt

# PaliGemma's processor makes an array of a tensor in a way that numpy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def joined(given, spec: str, item: int = 0) -> str:
    """The text of the chosen positions."""
    mask = given.token_map[spec][item].tolist()
    return "".join(t for t, m in zip(given.str_tokens[item], mask, strict=True) if m)


FRAME = "<fake_token_around_image>"
SPLIT = "".join(FRAME + f"<row_{r}_col_{c}>" + "\n" * (c == 2) for r in (1, 2, 3, 4) for c in (1, 2))
THUMBNAIL = f"\n{FRAME}<global-img>{FRAME}"
# By hand, from each processor's settings: the picture, its grids, and what separates its tokens.
EXPECTED = [
    ("llava", (500, 300), "24 x 24", ""),
    # 500 x 300 fits 672 x 336 as 560 x 336: 40 of 48 columns are not padding; a newline ends each of 24 rows.
    ("llava_next", (500, 300), "24 x 24 + 24 x 40", "<newline>" * 24),
    ("llava_next", (90, 700), "24 x 24 + 72 x 10", "<newline>" * 72),
    # 260 x 520 fits 384 x 768 whole; 27 patches of 14 a tile of 384, and 6 pixels of each tile that no patch sees.
    ("llava_onevision", (260, 520), "27 x 27 + 54 x 27", "<newline>" * 54),
    # 81 x 32 patches are less than 1.1 times nine tiles across, so nothing is interpolated.
    ("llava_onevision", (430, 1100), "27 x 27 + 81 x 32", "<newline>" * 81),
    ("qwen2_vl", (500, 300), "11 x 18", ""),  # 504 x 308 pixels in tokens of 28
    ("qwen2_vl", (20, 30), "3 x 2", ""),  # at least 3136 pixels: 56 x 84
    ("qwen2_5_vl", (260, 520), "19 x 9", ""),
    ("qwen3_vl", (500, 300), "9 x 16", ""),  # tokens of 32
    ("qwen3_vl", (100, 100), "8 x 8", ""),  # at least 65536 pixels: 256 x 256
    ("qwen3_5", (260, 520), "16 x 8", ""),
    ("internvl", (300, 300), "16 x 16", "<img></img>"),
    ("internvl", (500, 300), "7 of 16 x 16", "<img></img>"),  # 5 : 3 is nearest to 3 x 2 tiles, and a thumbnail
    ("gemma3", (500, 300), "16 x 16", "\n\n<start_of_image><end_of_image>\n\n"),
    ("paligemma", (500, 300), "16 x 16", ""),
    ("idefics3", (300, 600), "9 of 13 x 13", SPLIT + THUMBNAIL),  # 728 x 1456: 2 x 4 tiles
    ("smolvlm", (300, 600), "9 of 9 x 9", SPLIT + THUMBNAIL),  # 768 x 1536
    # Very wide, very tall and tiny: 1200 x 90 becomes 1008 x 76, of 24 rows of patches 5.4 are not padding, and the
    # padding above and below is rounded down; 1536 x 115 of 27 rows likewise, 8.1.
    ("llava", (1200, 90), "24 x 24", ""),
    ("llava_next", (1200, 90), "24 x 24 + 6 x 72", "<newline>" * 6),
    ("llava_onevision", (1200, 90), "27 x 27 + 9 x 108", "<newline>" * 9),
    ("llava_onevision", (31, 47), "27 x 27 + 27 x 17", "<newline>" * 27),
    ("qwen2_5_vl", (1200, 90), "3 x 43", ""),
    ("qwen3_vl", (31, 47), "10 x 7", ""),  # enlarged to 65536 pixels, both sides rounded up: 7 x 32 by 10 x 32
    ("internvl", (90, 1200), "13 of 16 x 16", "<img></img>"),  # twelve tiles, one on the other
    ("gemma3 with pan and scan", (1200, 90), "16 x 16", "\n\n<start_of_image><end_of_image>\n\n"),  # too thin to crop
    ("paligemma", (31, 47), "16 x 16", ""),
    ("smolvlm", (90, 1200), "5 of 9 x 9", "".join(f"{FRAME}<row_{r}_col_1>\n" for r in (1, 2, 3, 4)) + THUMBNAIL),
    ("mllama", (1200, 90), "3 of 40 x 40", "<image>"),  # three tiles enlarge it, four would more, two would not
    ("pixtral", (500, 300), "19 x 32", "[IMG_BREAK]" * 18 + "[IMG_END]"),  # whole patches of 16, rounded up
    ("pixtral", (1503, 251), "11 x 64", "[IMG_BREAK]" * 10 + "[IMG_END]"),  # 1024 x 171
    ("mistral3", (500, 300), "11 x 18", "[IMG_BREAK]" * 10 + "[IMG_END]"),  # two by two patches of 14 a token
    ("mllama", (500, 300), "40 x 40", "<image>"),
    ("mllama", (300, 1000), "2 of 40 x 40", "<image>"),  # fits two tiles, one on the other
]


@pytest.mark.parametrize(("name", "size", "grids", "separators"), EXPECTED)
def test_the_parts_of_a_prompt(name, size, grids, separators):
    given = prompt(name, noise(*size))
    token_map = given.token_map
    (grid,) = token_map.grids[0]
    assert str(grid) == grids and token_map.located == (True,)
    assert joined(given, "question") == TEXT
    # Where white space of the template and of the processor became one token, it counts with the processor's.
    assert joined(given, "separator").replace("\n", "") == separators.replace("\n", "")
    where = token_map if token_map.cross is None else token_map.cross
    patches = where.patch_index[0][where.patch_index[0] >= 0].tolist()
    assert patches == list(range(len(grid)))
    assert torch.equal(token_map["image"][0], (token_map.image_index[0] == 0))
    assert (token_map["image"] | token_map["separator"] | token_map["text"]).all()


def test_pan_and_scan_crops_are_tiles_behind_the_whole_picture():
    given = prompt("gemma3 with pan and scan", noise(700, 290))
    (grid,) = given.token_map.grids[0]
    assert str(grid) == "3 of 16 x 16" and [t.role for t in grid.tiles] == ["thumbnail", "tile", "tile"]
    assert [t.place for t in grid.tiles] == [None, (0, 0), (0, 1)] and grid.tiles[2].covers == (350, 0, 700, 290)
    said = joined(given, "separator")
    assert "Here is the original image" in said and "here are some crops to help you see better" in said
    assert joined(given, "question") == TEXT and given.token_map.tile_index.amax() == 2


def test_tiles_and_the_thumbnail_are_told_apart():
    given = prompt("internvl", noise(500, 300))
    token_map = given.token_map
    image = token_map["image"][0]
    assert token_map.tile_index[0][image].tolist() == [k for k in range(7) for _ in range(256)]
    assert token_map["image:thumbnail"][0][image].tolist() == [False] * 6 * 256 + [True] * 256
    assert torch.equal(token_map["image:tiles"] | token_map["image:thumbnail"], token_map["image"])
    (grid,) = token_map.grids[0]
    assert [t.place for t in grid.tiles[:6]] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert grid.name(0) == "tile 0,0 0,0" and grid.name(6 * 256 + 17) == "thumbnail 1,1"
    maps = grid.to_maps(torch.arange(float(len(grid))))
    assert len(maps) == 7 and maps[6][1, 1] == 6 * 256 + 17


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in families.MAKERS if n != "mllama"])
def test_the_picture_goes_into_image_positions_and_no_others(name):
    """Newlines, marks of rows and columns, start and end tokens are the same for any picture; patches are not."""
    size = (400, 300) if name != "gemma3 with pan and scan" else (560, 260)
    pair = [prompt(name, noise(*size, seed)) for seed in (0, 1)]
    before, after = (painting.seen(name, given) for given in pair)
    moved = bounds.changed(after, before)
    assert torch.equal(moved, pair[0].token_map["image"][0])


def test_cross_attention_keys_are_the_patches_of_the_tiles():
    pair = [prompt("mllama", noise(300, 1000, seed)) for seed in (0, 1)]
    before, after = (painting.seen("mllama", given) for given in pair)
    keys = pair[0].token_map.cross
    moved = bounds.changed(after, before)
    patch = keys.patch_index[0]
    boxes = pair[0].token_map.grids[0][0].boxes()
    inside = (boxes[:, 2:] > boxes[:, :2]).all(-1)  # the rest of the tiles is padding
    assert torch.equal(moved, (patch >= 0) & inside[patch.clamp(min=0)])
    assert keys.image_index.shape == (1, 4 * 1601) and int((keys.image_index == 0).sum()) == 2 * 1601
    assert not pair[0].token_map["image"].any()


BATCHED = [n for n in families.MAKERS if n != "gemma3 with pan and scan"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BATCHED)
def test_an_item_of_a_batch_is_the_prompt_of_that_item_alone(name):
    family = families.family(name)
    marks = "<image>" if family.name == "paligemma" else ""
    pictures = [[noise(330, 210, 1), noise(180, 250, 2)], [noise(150, 400, 3)], []]
    if family.name == "paligemma":
        pictures.pop()  # its processor wants a picture with every text
    texts = [marks * len(own) + said for own, said in zip(pictures, (TEXT, "Is it red?", TEXT), strict=False)]
    batch = build_prompt(family.processor, family.config, texts, images=pictures)
    for i, own in enumerate(pictures):
        alone = build_prompt(family.processor, family.config, texts[i], images=own)
        assert batch.token_map.grids[i] == alone.token_map.grids[0] and len(alone.token_map.grids[0]) == len(own)
        one = batch[i]
        assert one.str_tokens == alone.str_tokens and set(one.inputs) == set(alone.inputs)
        for field in ("part", "image_index", "patch_index"):
            assert torch.equal(getattr(one.token_map, field), getattr(alone.token_map, field)), field
        for key, value in alone.inputs.items():
            assert torch.equal(one.inputs[key], value), key


@pytest.mark.parametrize("name", BATCHED)
def test_inputs_made_elsewhere_give_the_same_map(name):
    """The question too, though it stands behind marks that the processor puts around pictures."""
    family = families.family(name)
    picture = noise(330, 210)
    made = prompt(name, picture)
    again = build_prompt(family.processor, family.config, inputs=made.inputs, images=[picture])
    bare = build_prompt(family.processor, family.config, inputs=made.inputs)
    assert again.token_map.grids == made.token_map.grids
    for one in (again, bare):
        assert one.token_map.located == (True,) and joined(one, "question") == TEXT
        for field in ("part", "image_index", "patch_index"):
            assert torch.equal(getattr(one.token_map, field), getattr(made.token_map, field)), field
    # Without the picture the grids are the same, with no place in it.
    assert [str(g) for g in bare.token_map.grids[0]] == [str(g) for g in made.token_map.grids[0]]


def test_crops_of_inputs_made_elsewhere_are_found_where_picture_and_question_are_given():
    family, picture = families.family("gemma3 with pan and scan"), noise(700, 290)
    made = prompt("gemma3 with pan and scan", picture)
    again = build_prompt(family.processor, family.config, TEXT, inputs=made.inputs, images=[picture])
    assert again.token_map.grids == made.token_map.grids and torch.equal(again.token_map.part, made.token_map.part)


@pytest.mark.parametrize("name", ["internvl", "gemma3", "smolvlm", "idefics3"])
def test_several_pictures_and_text_around_them_made_elsewhere(name):
    """Two pictures before the question are told apart from it; text before a picture is not taken for a mark."""
    family = families.family(name)
    pair = [noise(100, 60), noise(60, 90, 1)]
    made = prompt(name, *pair)
    bare = build_prompt(family.processor, family.config, inputs=made.inputs)
    assert torch.equal(bare.token_map.part, made.token_map.part)
    mark = family.processor.image_token
    spoken = build_prompt(family.processor, family.config, f"First {mark} then {TEXT}", images=pair[:1])
    again = build_prompt(family.processor, family.config, inputs=spoken.inputs)
    assert "First" not in joined(again, "separator") and "then" not in joined(again, "separator")

"""How image tokens are laid out, by hand, on inputs and configs of a few numbers: no processor and no model."""

from __future__ import annotations

from types import SimpleNamespace as Holder

import pytest
import torch

from lostattn.checkpoint.no_processor import NoProcessor
from lostattn.errors import InputError
from lostattn.pictures.patch_grid import PatchGrid, TiledGrid
from lostattn.prompt.alignment import align, build_token_map
from lostattn.prompt.layouts.base import PLACELESS, SEPARATOR, Batch
from lostattn.prompt.layouts.find import image_layouts
from lostattn.prompt.rendered import Rendered

IMG, X = 9, SEPARATOR


def layouts(inputs, config, tokens, ids=None, processor=None):
    return image_layouts(Batch(inputs, config, processor or NoProcessor(), ids, IMG, None, tokens))


def test_a_merge_that_no_config_says_is_read_from_the_number_of_tokens():
    thw = {"image_grid_thw": torch.tensor([[1, 6, 4], [1, 2, 8]])}
    found = layouts(thw, Holder(vision_config=Holder()), 10)
    assert [str(one.grid) for one in found] == ["3 x 2", "1 x 4"] and found[0].grid.merge == 2
    assert [one.rows for one in found] == [24, 16]


def test_newlines_between_packed_rows_are_separators():
    """One token before, one after each of 2 rows, one behind: 2 x 3 + 4."""
    thw = {"image_grid_hw": torch.tensor([[4, 6]])}
    (found,) = layouts(thw, Holder(vision_config=Holder(spatial_merge_size=2)), 10)
    assert found.order == (X, 0, 1, 2, X, 3, 4, 5, X, X) and str(found.grid) == "2 x 3"


def test_pictures_padded_to_one_tensor_have_grids_of_their_own_sizes():
    inputs = {"pixel_values": torch.zeros(2, 3, 24, 32), "image_sizes": torch.tensor([[24, 16], [8, 32]])}
    config = Holder(vision_config=Holder(patch_size=4), spatial_merge_size=2)
    assert [str(one.grid) for one in layouts(inputs, config, 3 * 2 + 1 * 4)] == ["3 x 2", "1 x 4"]
    shapes = {"pixel_values": torch.zeros(1, 40, 48), "spatial_shapes": torch.tensor([[8, 4]])}
    (found,) = layouts(shapes, Holder(downsample_factor=2, vision_config=Holder()), 8)
    assert str(found.grid) == "4 x 2"


def test_patches_that_say_their_own_place():
    """Columns first, as the processor writes them; -1 where there is no patch."""
    places = torch.tensor([[[x, y] for y in range(4) for x in range(6)] + [[-1, -1]] * 6])
    (found,) = layouts({"image_position_ids": places}, Holder(vision_config=Holder(pooling_kernel_size=2)), 6)
    assert str(found.grid) == "2 x 3"


@pytest.mark.parametrize("part", ["qformer_config", "perceiver_config", "projector_patch_to_query_dict"])
def test_tokens_of_a_resampler_have_no_place_and_say_so(part):
    config = Holder(vision_config=Holder(patch_size=4), **{part: {}})
    (found,) = layouts({"pixel_values": torch.zeros(1, 3, 32, 32)}, config, 16)
    assert not found.grid and found.patches == (PLACELESS,) * 16
    with pytest.raises(InputError, match=rf"16 tokens are made of the whole picture by a resampler \({part}\)"):
        found.grid.boxes()
    with pytest.raises(InputError, match="none of them has a place"):
        found.grid.to_maps(torch.zeros(16))


ANYRES = Holder(vision_config=Holder(patch_size=4), image_grid_pinpoints=[[8, 16], [16, 8], [16, 16]])


def test_any_resolution_without_its_padding_and_with_a_newline_after_each_row():
    """20 x 10 pixels fit 16 x 8 whole: 2 x 4 patches of the tiles, after 2 x 2 of the thumbnail."""
    inputs = {"pixel_values": torch.ones(1, 3, 3, 8, 8), "image_sizes": torch.tensor([[10, 20]])}
    (found,) = layouts(inputs, ANYRES, 4 + 2 * 5)
    assert found.order == (0, 1, 2, 3, 4, 5, 6, 7, X, 8, 9, 10, 11, X) and str(found.grid) == "2 x 2 + 2 x 4"
    assert [tile.role for tile in found.grid.tiles] == ["thumbnail", "tiles"]
    # 8 x 20 pixels fit 8 x 16 as 6 x 16: half a column of padding on each side is no whole one.
    inputs["image_sizes"] = torch.tensor([[20, 8]])
    (found,) = layouts(inputs, ANYRES, 4 + 4 * 3)
    assert str(found.grid) == "2 x 2 + 4 x 2"


def test_one_of_several_pictures_is_not_cut():
    inputs = {
        "pixel_values": torch.ones(2, 1, 3, 8, 8), "image_sizes": torch.tensor([[10, 20], [8, 8]]),
        "batch_num_images": torch.tensor([2]),
    }  # fmt: skip
    assert [one.order for one in layouts(inputs, ANYRES, 10)] == [(0, 1, 2, 3, X)] * 2


def test_tiles_without_pictures_are_told_by_the_marks_before_them():
    marks = {20: "<row_1_col_1>", 21: "<row_1_col_2>", 22: "<global-img>"}
    tokenizer = Holder(convert_ids_to_tokens=lambda i: marks.get(i, f"<{i}>"))
    pixels = torch.zeros(2, 4, 3, 8, 8)
    pixels[0], pixels[1, :1] = 1, 1
    ids = [[1, 20, IMG, 21, IMG, 22, IMG, 2, 22, IMG], [1, 22, IMG]]
    config = Holder(vision_config=Holder(patch_size=4), scale_factor=2)
    found = layouts({"pixel_values": pixels}, config, 5, ids, Holder(tokenizer=tokenizer))
    assert [[(t.role, t.place) for t in one.grid.tiles] for one in found] == [
        [("tile", (0, 0)), ("tile", (0, 1)), ("thumbnail", None)], [("whole", None)], [("whole", None)],
    ]  # fmt: skip
    assert [one.tokens for one in found] == [3, 1, 1]


def test_newlines_are_no_part_of_the_image():
    ids = torch.tensor([[1, *[IMG] * 14, 2]])
    inputs = {"pixel_values": torch.ones(1, 3, 3, 8, 8), "image_sizes": torch.tensor([[10, 20]])}
    rendered = [Rendered("<1><9><2>", 0, None)]
    token_map = build_token_map(
        NoProcessor.tokenizer, ids, ids > 0, IMG, rendered, [layouts(inputs, ANYRES, 14, [ids[0].tolist()])]
    )
    assert token_map["separator"][0].nonzero().flatten().tolist() == [9, 14]
    assert token_map.tile_index[0].tolist() == [-1, 0, 0, 0, 0, 1, 1, 1, 1, -1, 1, 1, 1, 1, -1, -1]
    assert token_map["image:thumbnail"][0].sum() == 4 and token_map["image:tiles"][0].sum() == 8
    assert not (token_map["separator"] & (token_map["image"] | token_map["text"] | token_map["image:0"])).any()
    assert (token_map["all"] == (token_map["separator"] | token_map["image"] | token_map["text"])).all()


def test_a_grid_of_tiles():
    tiles = (
        PatchGrid(1, 2, size=(8, 4), covers=(0.0, 0.0, 4.0, 4.0), role="tile", place=(0, 0)),
        PatchGrid(1, 2, size=(8, 4), covers=(4.0, 0.0, 8.0, 4.0), role="tile", place=(0, 1)),
        PatchGrid(1, 1, size=(8, 4), covers=(0.0, 0.0, 8.0, 4.0), role="thumbnail"),
    )
    grid = TiledGrid(tiles)
    assert (len(grid), grid.size, str(grid)) == (5, (8, 4), "2 of 1 x 2 + 1 x 1")
    assert grid.boxes().tolist() == [[0, 0, 2, 4], [2, 0, 4, 4], [4, 0, 6, 4], [6, 0, 8, 4], [0, 0, 8, 4]]
    assert grid.touching((3, 1, 5, 2)) == [1, 2, 4]
    assert [m.tolist() for m in grid.to_maps(torch.arange(5.0))] == [[[0, 1]], [[2, 3]], [[4]]]
    assert [grid.name(p) for p in (0, 3, 4)] == ["tile 0,0 0,0", "tile 0,1 0,1", "thumbnail 0,0"]
    with pytest.raises(InputError, match=r"cut into 3 grids .*; use to_maps"):
        grid.to_map(torch.arange(5.0))
    with pytest.raises(InputError, match="4 values for 3 grids"):
        grid.to_maps(torch.arange(4.0))


@pytest.mark.parametrize(
    ("compact", "row", "counts", "loose", "expected"),
    [
        # a line break (4) of the text that became one token (6) with the separator beside it
        ([1, 4, 8, 2], [1, 6, IMG, IMG, 2], [2], {4}, [0, -1, 1, 4]),
        ([1, 8, 4, 2], [1, IMG, 7, 6, 2], [1], {4}, [0, 1, -1, 4]),
        ([1, 8, 4, 8, 2], [1, IMG, 6, IMG, 2], [1, 1], {4}, [0, 1, -1, 2, 4]),
        ([1, 4, 8, 2], [1, 6, IMG, IMG, 2], [2], set(), None),
        # a placeholder (8) that is another token than an image's
        ([1, 8, 2], [1, 8, IMG, IMG, 7, 2], [2], set(), [0, 1, 5]),
    ],
)
def test_the_walk_where_separators_stand_beside_the_text(compact, row, counts, loose, expected):
    assert align(compact, row, IMG, counts, mark=8, loose=loose) == expected

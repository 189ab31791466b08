"""Grids worked out from counts, marks and shapes, by hand, on inputs of a few numbers."""

from __future__ import annotations

from types import SimpleNamespace as Holder

import pytest
import torch

from lostattn.checkpoint.no_processor import NoProcessor
from lostattn.errors import InputError
from lostattn.pictures.patch_grid import UnknownGrid
from lostattn.prompt.layouts.base import PLACELESS, SEPARATOR, Batch
from lostattn.prompt.layouts.find import image_layouts
from lostattn.prompt.layouts.marks import marked_pieces, tile_places
from lostattn.prompt.rows import per_image

IMG, X = 9, SEPARATOR


def layouts(inputs, config, tokens, ids=None, processor=None, sizes=None):
    return image_layouts(Batch(inputs, config, processor or NoProcessor(), ids, IMG, sizes, tokens))


def pixels(*shape):
    return {"pixel_values": torch.zeros(*shape)}


def test_a_merge_that_nothing_says_is_told_by_whole_squares():
    """6 x 4 patches of 8 pixels, a quarter of the number of tokens; without patches, squares of 16 pixels."""
    (found,) = layouts(pixels(1, 3, 48, 32), Holder(vision_config=Holder(patch_size=8)), 6)
    assert (str(found.grid), found.grid.merge) == ("3 x 2", 2)
    (found,) = layouts(pixels(1, 3, 48, 32), Holder(vision_config=Holder()), 6)
    assert str(found.grid) == "3 x 2"
    (found,) = layouts(pixels(1, 3, 48, 40), Holder(vision_config=Holder()), 6)
    assert not found.grid and "makes 6 tokens of its tensor" in found.grid.reason


@pytest.mark.parametrize("name", ["num_query_tokens", "resampler_depth", "n_latents", "num_queries"])
@pytest.mark.parametrize("vision", [{"patch_size": 8}, {}])
def test_a_number_alone_is_not_trusted_where_tokens_may_be_queries(name, vision):
    (found,) = layouts(pixels(1, 3, 48, 32), Holder(vision_config=Holder(**vision), **{name: 6}), 6)
    assert isinstance(found.grid, UnknownGrid) and str(found.grid) == "grid not known"
    (found,) = layouts(pixels(1, 3, 48, 32), Holder(vision_config=Holder(**vision, **{name: 6})), 6)
    assert isinstance(found.grid, UnknownGrid)


def test_codes_have_as_many_pixels_as_the_levels_halve_them():
    config = Holder(vision_config=None, vq_config=Holder(channel_multiplier=[1, 2, 4]))
    (found,) = layouts(pixels(1, 3, 8, 12), config, 6)
    assert str(found.grid) == "2 x 3"
    sizes = {**pixels(1, 3, 8, 12), "image_sizes": torch.tensor([[8, 12]])}
    (found,) = layouts(sizes, config, 8)
    assert found.order == (0, 1, 2, X, 3, 4, 5, X)


def test_queries_have_no_place_and_the_separator_behind_them_is_told_apart():
    config = Holder(vision_config=Holder(model_type="deepseek_ocr2_vision", sam_config=Holder(patch_size=4)))
    (found,) = layouts(pixels(1, 3, 32, 32), config, 5)
    assert found.order == (*[PLACELESS] * 4, X) and found.grid.resampler
    assert str(found.grid) == "no place in the picture: resampled by learned queries of its vision encoder"
    with pytest.raises(InputError, match="have no place in the picture: its 4 tokens are made of the whole picture"):
        found.grid.boxes()


def test_rows_of_patches_are_told_by_the_newline_behind_them():
    config = Holder(vision_config=None, patch_size=2)
    row = [1, IMG, IMG, IMG, 4, IMG, IMG, IMG, 4, 7]
    (found,) = layouts(pixels(6, 12), config, 6, [row])
    assert str(found.grid) == "2 x 3" and found.order == (0, 1, 2, 3, 4, 5)
    (found,) = layouts(pixels(6, 12), config, 6, [[1, *[IMG] * 6, 7]])
    assert not found.grid and "give the picture with images=" in found.grid.reason
    other = [1, IMG, IMG, IMG, 4, IMG, IMG, IMG, 5, IMG, IMG, IMG, 7]  # another mark is no newline
    assert [str(one.grid) for one in layouts(pixels(9, 12), config, 9, [other])] == ["2 x 3", "grid not known"]


def test_a_small_and_a_large_grid_whose_last_column_pools_one_patch():
    """5 columns of patches pooled by 2: the last of 3 columns of tokens is half as wide."""
    large = torch.cat([torch.arange(10).reshape(2, 5), torch.full((2, 1), -1)], 1)
    pooled = large.reshape(1, 2, 3, 2).transpose(1, 2).reshape(3, 4)
    inputs = {
        **pixels(2, 4, 12),
        "image_grids": torch.tensor([[1, 1, 1, 3]]),
        "image_token_pooling": torch.cat([torch.arange(4)[None], pooled]),
    }
    stands = type("Images", (), {"_preprocess": lambda self: None})
    stands._preprocess.__module__ = "transformers.models.molmo2.image_processing_molmo2"
    processor = Holder(image_processor=stands())
    (found,) = layouts(inputs, Holder(vision_config=Holder()), 4, processor=processor, sizes=[[(50, 20)]])
    assert str(found.grid) == "1 x 1 + 1 x 3" and [t.role for t in found.grid.tiles] == ["thumbnail", "tiles"]
    boxes = [[0, 0, 50, 20], [0, 0, 20, 20], [20, 0, 40, 20], [40, 0, 50, 20]]
    assert found.grid.boxes().tolist() == boxes


def batch_of(row, names=None):
    tokenizer = Holder(convert_ids_to_tokens=lambda token: (names or {}).get(token, f"<{token}>"))
    return Batch({}, Holder(), Holder(tokenizer=tokenizer), [row], IMG, None, row.count(IMG))


def test_pieces_are_told_by_the_names_of_the_marks_before_them():
    names = {1: "<|img_row_1_col_1|>", 2: "<|img_row_1_col_2|>", 3: "<|img_thumbnail|>"}
    row = [1, IMG, 2, IMG, 3, IMG, 7, 1, IMG, 2, IMG]  # the second picture has no thumbnail
    first, second = marked_pieces(batch_of(row, names), row)
    assert first == [("tile", (0, 0)), ("tile", (0, 1)), ("thumbnail", None)]
    assert second == [("tile", (0, 0)), ("tile", (0, 1))]


def test_pieces_are_told_by_two_marks_of_which_the_first_is_the_whole_pictures():
    whole, start, stop, line = (2, 3), 4, 5, 6
    tile = [start, IMG, IMG, stop]
    row = [whole[0], IMG, whole[1], *tile, *tile, line, *tile, *tile, 7, 7, 7, 7, whole[0], IMG, whole[1]]
    first, second = marked_pieces(batch_of(row), row)
    assert first == [("thumbnail", None), *(("tile", (r, c)) for r in (0, 1) for c in (0, 1))]
    assert second == [("whole", None)]
    apart = [2, IMG, 3, 8, 8, 8, 4, IMG, 5]  # words between them: two pictures
    assert marked_pieces(batch_of(apart), apart) is None


def test_rows_of_unequal_length_give_no_tile_a_place():
    assert tile_places([(0, 2), (4, 2), (9, 2)]) == [None] * 3
    assert tile_places([(0, 2), (5, 2), (10, 2)]) == [(0, 0), (1, 0), (2, 0)]


def item_rows(inputs, config, ids):
    """How many rows of each input every picture has."""
    found = layouts(inputs, config, sum(row.count(IMG) for row in ids), ids)
    grids = [[one.grid] for one in found]
    return per_image({"input_ids": torch.tensor(ids), **inputs}, grids)


def test_rows_of_pieces_and_of_local_views_go_with_their_picture():
    """Two items of a picture each: three tiles and the whole, one tile and the whole."""
    views = {**pixels(2, 3, 8, 16), "pixel_values_local": torch.zeros(4, 3, 8, 8)}
    inputs = {**views, "num_local_patches": torch.tensor([3, 1])}
    tile, whole = [3, IMG, 4], [5, IMG, IMG, 6]
    ids = [[*tile * 3, *whole], [*tile, *whole, *[0] * 6]]
    found = item_rows(inputs, Holder(vision_config=Holder(patch_size=4)), ids)
    assert found == {"pixel_values": [1, 1], "pixel_values_local": [3, 1], "num_local_patches": [1, 1]}
    shapes = torch.tensor([[4, 2], [2, 2], [2, 2], [2, 6]])
    inputs = {
        "pixel_values": torch.zeros(4, 12, 5),
        "pixel_attention_mask": torch.ones(4, 12),
        "spatial_shapes": shapes,
    }
    ids = [[2, *[IMG] * 2, 3, 4, IMG, 5, 4, IMG, 5], [2, *[IMG] * 3, 3, *[0] * 5]]
    found = item_rows(inputs, Holder(vision_config=Holder()), ids)
    assert found == dict.fromkeys(inputs, [3, 1])


def test_queries_have_no_place_whatever_the_layout_of_the_pixels():
    inputs = {"flattened_patches": torch.zeros(2, 6, 14)}
    ids = [[1, *[IMG] * 4, 2, *[IMG] * 4]]
    found = layouts(inputs, Holder(vision_config=Holder(), latent_query_num=4), 8, ids)
    assert [(one.tokens, one.grid.resampler) for one in found] == [(4, "latent_query_num")] * 2
    assert layouts(inputs, Holder(vision_config=Holder()), 8, ids) is None


def test_a_tower_of_codes_beside_one_of_patches_is_not_asked():
    """Codes are for pictures that the model makes (Janus); what it sees goes through patches."""
    config = Holder(vision_config=Holder(patch_size=8), vq_config=Holder(channel_multiplier=[1, 2]))
    (found,) = layouts(pixels(1, 3, 16, 24), config, 6)
    assert str(found.grid) == "2 x 3" and found.grid.merge == 1

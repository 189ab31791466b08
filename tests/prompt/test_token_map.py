"""Names of positions, on a map written out by hand; patch grids and their boxes; the walk of two id sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lostattn.errors import InputError, UnknownName
from lostattn.pictures.patch_grid import PatchGrid, UnknownGrid
from lostattn.prompt.alignment import align, text_codes
from lostattn.prompt.layouts.base import Batch
from lostattn.prompt.layouts.find import image_layouts
from lostattn.prompt.layouts.of_items import split_layouts
from lostattn.prompt.parts import PARTS
from lostattn.prompt.rendered import Rendered
from lostattn.prompt.token_map import TokenMap

P, S, I, Q, A, T, X = range(7)  # noqa: E741  (the initials of PARTS)
#    0  1  2  3  4  5  6  7  8  9  10
ROWS = [
    [P, P, P, S, I, I, T, Q, Q, T, T],
    [S, S, I, I, T, I, I, Q, Q, T, A],
]


@pytest.fixture
def token_map() -> TokenMap:
    grid = PatchGrid(1, 2)
    image = torch.tensor([[-1, -1, -1, -1, 0, 0, -1, -1, -1, -1, -1], [-1, -1, 0, 0, -1, 1, 1, -1, -1, -1, -1]])
    patch = torch.where(image < 0, -1, torch.tensor([0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0]))
    patch[1] = torch.tensor([-1, -1, 0, 1, -1, 0, 1, -1, -1, -1, -1])
    return TokenMap(torch.tensor(ROWS), image, patch, ((grid,), (grid, grid)), (True, True))


def places(mask: torch.Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in mask]


def test_the_parts_are_in_the_order_that_the_rows_above_assume():
    assert PARTS == (
        "padding", "system", "image", "question", "answer", "template", "separator", "audio", "history", "thought",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("padding", [[0, 1, 2], []]),
        ("system", [[3], [0, 1]]),
        ("image", [[4, 5], [2, 3, 5, 6]]),
        ("image:0", [[4, 5], [2, 3]]),
        ("image:1", [[], [5, 6]]),
        (("image", 1), [[], [5, 6]]),
        ("question", [[7, 8], [7, 8]]),
        ("answer", [[], [10]]),
        ("template", [[6, 9, 10], [4, 9]]),
        ("text", [[3, 6, 7, 8, 9, 10], [0, 1, 4, 7, 8, 9, 10]]),
        ("last", [[10], [10]]),
        ("all", [[3, 4, 5, 6, 7, 8, 9, 10], list(range(11))]),
        ("system|question", [[3, 7, 8], [0, 1, 7, 8]]),
        (("system", "question", -1), [[3, 7, 8, 10], [0, 1, 7, 8, 10]]),
        (0, [[3], [0]]),  # of the real positions: the padding of item 0 does not count
        (-1, [[10], [10]]),
        (-8, [[3], [3]]),
        (np.int64(2), [[5], [2]]),
        ([0, -2], [[3, 9], [0, 9]]),
        (torch.tensor([1, 1]), [[4], [1]]),
        ([], [[], []]),
        (slice(1, 3), [[4, 5], [1, 2]]),
        (slice(-2, None), [[9, 10], [9, 10]]),
        (slice(None, None, 4), [[3, 7], [0, 4, 8]]),
        (slice(8, 99), [[], [8, 9, 10]]),
    ],
)
def test_a_spec_names_these_positions(token_map, spec, expected):
    assert places(token_map[spec]) == expected


def test_last_is_the_last_real_position_also_under_padding_on_the_right():
    part = torch.tensor([[S, Q, Q, P, P]])
    none = torch.full_like(part, -1)
    token_map = TokenMap(part, none, none, ((),), (True,))
    assert places(token_map["last"]) == [[2]]
    assert places(token_map[-3]) == [[0]]


def test_a_mask_is_taken_as_it_is_for_each_item_or_for_all(token_map):
    both = torch.zeros(2, 11, dtype=torch.bool)
    both[0, 0] = both[1, 7] = True
    assert places(token_map[both]) == [[0], [7]]
    assert places(token_map[both.numpy()]) == [[0], [7]]
    assert places(token_map[both[1]]) == [[7], [7]]
    assert places(token_map[[False] * 10 + [True]]) == [[10], [10]]


@pytest.mark.parametrize("shape", [(10,), (1, 11), (11, 2), (2, 11, 1)])
def test_a_mask_of_the_wrong_shape_is_refused_with_both_shapes(token_map, shape):
    with pytest.raises(InputError) as error:
        token_map[torch.ones(shape, dtype=torch.bool)]
    assert str(shape) in str(error.value) and "(2, 11)" in str(error.value)


def test_an_unknown_name_is_refused_with_the_nearest(token_map):
    with pytest.raises(UnknownName, match="No positions are called 'imgae'.*Did you mean 'image'"):
        token_map["imgae"]
    with pytest.raises(UnknownName, match="'image:x'"):
        token_map["image:x"]
    with pytest.raises(UnknownName, match="'image:-1'"):
        token_map["image", -1]
    with pytest.raises(UnknownName, match="'imagee'"):
        token_map.extends("last|imagee")


@pytest.mark.parametrize("place", [8, -9])
def test_an_int_out_of_range_is_refused_with_the_item_that_is_too_short(token_map, place):
    with pytest.raises(InputError, match=f"Position {place} is out of range: item 0 of the batch has 8 real"):
        token_map[place]


@pytest.mark.parametrize("spec", [1.5, None, True, {"image"}, ["image", 0.5], torch.ones(2, 11)])
def test_other_specs_are_refused(token_map, spec):
    with pytest.raises(InputError, match="Positions cannot be chosen by|A mask of positions is boolean"):
        token_map[spec]


def test_what_is_needed_must_be_there(token_map):
    assert token_map.resolve("image", need=True).sum() == 6
    assert not token_map.resolve("image:5").any()
    with pytest.raises(InputError, match=r"an image that is not there: the items hold \[1, 2\] images"):
        token_map.resolve("image:5", need=True)
    with pytest.raises(InputError, match="names no position"):
        token_map.resolve(slice(0, 0), need=True)
    alone = token_map.select([0], slice(3, 11))
    with pytest.raises(InputError, match="no answer so far; give one with answer="):
        alone.resolve("answer", need=True)


@pytest.mark.parametrize("spec", ["image", "image:0", ("image", 0), "answer|image"])
def test_image_positions_of_a_prompt_without_images(spec):
    part = torch.tensor([[S, Q, Q, T]])
    none = torch.full_like(part, -1)
    token_map = TokenMap(part, none, none, ((),), (True,))
    assert not token_map.resolve(spec).any()
    with pytest.raises(InputError, match="the prompt holds no image; give one, for example"):
        token_map.resolve(spec, need=True)


@pytest.mark.parametrize(
    "spec",
    ["last", "all", "text", "answer", "image|last", -1, [0, -1], slice(None), slice(-3, None), ("image", "last")],
)
def test_a_generated_token_belongs_to(token_map, spec):
    assert token_map.extends(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "image", "question", "system", "template", "padding", "image:0|question", 0, 10, [0, 1], slice(0, 3),
        slice(None, -1), slice(None, None, 2), ("image", 0), ("image", "question"), torch.ones(11, dtype=torch.bool),
        torch.tensor([3]),
    ],
)  # fmt: skip
def test_a_generated_token_does_not_belong_to(token_map, spec):
    assert not token_map.extends(spec)


def test_names_that_need_the_text_are_refused_where_it_was_not_located(token_map):
    lost = TokenMap(token_map.part, token_map.image_index, token_map.patch_index, token_map.grids, (True, False))
    for name in ("system", "question", "answer", "template"):
        with pytest.raises(InputError, match=f"The {name} of item 1 could not be told apart"):
            lost[name]
    assert places(lost["image:0"]) == [[4, 5], [2, 3]]


def test_select_and_counts(token_map):
    alone = token_map.select([0], slice(3, 11))
    assert places(alone["question"]) == [[4, 5]]
    assert alone.n_images == (1,)
    assert alone.counts(0) == {"system": 1, "image": 2, "question": 2, "template": 3}
    assert alone.patch_index.tolist() == [[-1, 0, 1, -1, -1, -1, -1, -1]]


def test_boxes_of_a_grid_by_hand():
    grid = PatchGrid(2, 3, size=(70, 40), covers=(10.0, -5.0, 40.0, 45.0))
    expected = [
        [10, 0, 20, 20], [20, 0, 30, 20], [30, 0, 40, 20],
        [10, 20, 20, 40], [20, 20, 30, 40], [30, 20, 40, 40],
    ]  # fmt: skip
    assert grid.boxes().tolist() == expected


def test_a_map_of_values_has_the_shape_of_the_grid():
    values = torch.arange(6.0)
    assert PatchGrid(2, 3).to_map(values).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert PatchGrid(1, 3, frames=2).to_map(values).tolist() == [[[0, 1, 2]], [[3, 4, 5]]]
    with pytest.raises(InputError, match="6 values for a grid of 5 x 3, which has 15 patches"):
        PatchGrid(5, 3).to_map(values)


def test_a_place_that_is_not_known_is_not_guessed():
    with pytest.raises(InputError, match="no known place in a picture: the original picture is not known"):
        PatchGrid(2, 3).boxes()
    unknown = UnknownGrid("37 tokens for a tensor of 6 x 6 patches")
    assert not unknown and PatchGrid(2, 3)
    with pytest.raises(InputError, match="not known: 37 tokens"):
        unknown.boxes()
    with pytest.raises(InputError, match="not known: 37 tokens"):
        unknown.to_map(torch.zeros(37))


class _Holder:
    def __init__(self, **values):
        self.__dict__.update(values)


def batch_of(inputs, config, tokens, processor=None, sizes=None):
    return Batch(inputs, config, processor or _Holder(), None, None, sizes, tokens)


def test_tokens_that_are_not_one_a_patch_have_no_grid():
    config = _Holder(vision_config=_Holder(patch_size=8))
    pixels = {"pixel_values": torch.zeros(2, 3, 40, 56)}
    (known, _) = image_layouts(batch_of(pixels, config, 2 * 35))
    assert (known.grid.rows, known.grid.cols, known.tokens) == (5, 7, 35)
    (pooled, _) = image_layouts(batch_of(pixels, config, 2 * 9))
    assert not pooled.grid and pooled.grid.reason == "9 tokens for a tensor of 5 x 7 patches"
    tiles = {"pixel_values": torch.zeros(2, 3, 3, 40, 56)}
    assert image_layouts(batch_of(tiles, config, 70)) is None


def test_a_picture_processor_of_its_own_kind_is_not_second_guessed():
    config = _Holder(vision_config=_Holder(patch_size=8))
    processor = _Holder(image_processor=_Holder(do_resize=True))
    pixels = {"pixel_values": torch.zeros(1, 3, 40, 56)}
    (one,) = image_layouts(batch_of(pixels, config, 35, processor, [[(90, 70)]]))
    assert one.grid.rows == 5
    with pytest.raises(InputError, match="_Holder prepares pictures in its own way"):
        one.grid.boxes()


IMG = 9


@pytest.mark.parametrize(
    ("compact", "row", "counts", "expected"),
    [
        ([1, 2], [1, 2], [], [0, 1]),
        ([1, IMG, 2], [1, IMG, IMG, IMG, 2], [3], [0, 1, 4]),
        ([1, IMG, 2], [1, IMG, IMG, IMG, 2], None, [0, 1, 4]),
        ([1, IMG, IMG, 2], [1, IMG, IMG, IMG, 2], [1, 2], [0, 1, 2, 4]),
        ([IMG, 5, IMG], [IMG, IMG, 5, IMG], None, [0, 2, 3]),
        # rows of a picture set apart by separators (7), delimiters (8) around it
        ([1, IMG, 2], [1, 8, IMG, IMG, 7, IMG, IMG, 8, 2], [4], [0, 1, 8]),
        ([1, IMG, 2, IMG, 3], [1, IMG, 7, IMG, 2, IMG, 3], [2, 1], [0, 1, 4, 5, 6]),
    ],
)
def test_the_walk_places_every_token(compact, row, counts, expected):
    assert align(compact, row, IMG, counts) == expected


@pytest.mark.parametrize(
    ("compact", "row", "counts"),
    [
        ([1, 2], [1, 2, 3], []),
        ([1, 2], [3, 1, 2], []),
        ([1, IMG, 2], [1, IMG, IMG, 2], [1]),
        ([1, IMG, 2], [1, IMG, IMG, 2], [3]),
        ([1, IMG, 2], [1, IMG, IMG, 2], [1, 1]),
        ([1, IMG, 2], [1, 2], [1]),
        ([1, IMG, IMG, 2], [1, IMG, IMG, IMG, 2], None),
        ([1, IMG, 4, IMG, 2], [1, IMG, 5, IMG, 2], [1, 1]),
    ],
)
def test_the_walk_says_so_when_it_does_not_come_out_even(compact, row, counts):
    assert align(compact, row, IMG, counts) is None


class _Slow:
    """A tokenizer without offsets: one id a word."""

    is_fast, all_special_ids, added_tokens_decoder = False, [], {}  # noqa: RUF012
    ids = {"hi": 1, "how": 2, "many": 3, "bye": 4}  # noqa: RUF012

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [self.ids[w] for w in text.split()]}


def test_without_offsets_the_question_is_found_by_its_own_tokens():
    rendered = Rendered("hi IMG how many bye", 3, (7, 15))
    found = text_codes(_Slow(), rendered, [1, IMG, IMG, 2, 3, 4], IMG, [2])
    assert (found.parts, found.located) == ([S, I, I, Q, Q, T], True)
    found = text_codes(_Slow(), rendered, [1, IMG, IMG, 3, 2, 4], IMG, [2])
    assert (found.parts, found.located) == ([T, I, I, T, T, T], False)


def test_images_are_shared_out_by_their_tokens():
    grids = {"image_grid_thw": torch.tensor([[1, 2, 4], [1, 2, 2], [1, 4, 2]])}
    layouts = image_layouts(batch_of(grids, _Holder(vision_config=_Holder(spatial_merge_size=2)), 5))
    assert [m.tokens for m in layouts] == [2, 1, 2]
    rows = [[1, IMG, IMG, 5, IMG], [4, 4], [IMG, IMG]]
    assert [[m.tokens for m in own] for own in split_layouts(layouts, rows, IMG, None)] == [[2, 1], [], [2]]
    assert [[m.tokens for m in own] for own in split_layouts(layouts, rows, IMG, [2, 0, 1])] == [[2, 1], [], [2]]
    with pytest.raises(InputError, match=r"Item 0 has 1 image tokens, but its 1 image\(s\) make 2"):
        split_layouts(layouts, [[IMG], *rows[1:]], IMG, None)
    with pytest.raises(InputError, match=r"1 image\(s\) in the pixel values have no image tokens"):
        split_layouts(layouts, rows[:1], IMG, None)


def test_images_in_a_layout_that_is_not_known_are_their_runs_of_tokens():
    row = [1, IMG, IMG, 5, IMG]
    assert [m.tokens for m in split_layouts(None, [row], IMG, None)[0]] == [2, 1]
    assert [m.tokens for m in split_layouts(None, [row], IMG, [1])[0]] == [3]
    assert [m.tokens for m in split_layouts(None, [row], IMG, [3])[0]] == [0, 0, 0]
    assert not split_layouts(None, [row], IMG, None)[0][0].grid

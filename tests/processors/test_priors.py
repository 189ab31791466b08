"""Priors of pictures in tiles, on what real processors emit: against eager towers and the models' own packing code."""

from __future__ import annotations

import copy
import functools

import bounds
import families
import pytest
import torch
from painting import TEXT, noise
from torch import Tensor

import lostattn as la
from lostattn.errors import InputError
from lostattn.interventions.complexity import patch_complexity, prompt_complexity
from lostattn.pictures.patch_grid import TiledGrid
from lostattn.tower.tokens import tower_tokens

pytestmark = pytest.mark.slow

# Pictures of one item: tiles of several numbers, and beside them a picture that stays whole.
PICTURES = {
    "llava_next": ((500, 420), (700, 100)),  # a window of its decoder reaches no further than 4096 tokens
    "llava_onevision": ((260, 520),),
    "internvl": ((500, 300), (230, 230)),
    "gemma3 with pan and scan": ((300, 650), (250, 260)),
    "idefics3": ((260, 120),),
    "smolvlm": ((250, 90), (60, 80)),
}


@functools.cache
def loaded(name: str):
    small = {"mllama": families.mllama, "small llava_onevision": families.llava_onevision}
    family = small[name](side=112) if name in small else families.family(name)
    return la.load(family.model(mixing=True), processor=family.processor, selftest=False)


@functools.cache
def prompted(name: str):
    return loaded(name).prompt(TEXT, images=[noise(*size, seed) for seed, size in enumerate(PICTURES[name])])


@functools.cache
def per_key(name: str) -> Tensor:
    """The eager tower's weights of its one layer, averaged over heads and queries: ``[sequence, key]``."""
    return eager(name, prompted(name)).double().mean((1, 2))


def eager(name: str, given) -> Tensor:
    """The eager tower's weights of its one layer: ``[sequence, head, query, key]``."""
    hf = copy.deepcopy(loaded(name).hf)
    hf.set_attn_implementation("eager")
    kept: list[Tensor] = []
    attention = hf.get_submodule(loaded(name).architecture.vision.stack.blocks[0].attn.path)
    attention.register_forward_hook(lambda module, args, out: kept.append(out[1]))
    with torch.no_grad():
        hf(**given.inputs)
    assert len(kept) == 1
    return kept[0]


def packed(name: str, given, numbers: Tensor) -> list[Tensor]:
    """What the model's own code makes of one number a patch: one a token, newlines left out, picture by picture."""
    inner = loaded(name).hf.model
    if "llava" in name:
        counts = [1 + _canvas(inner.config, size) for size in given.inputs["image_sizes"]]
        features = [part[..., None].float() for part in numbers.split(counts)]
        more = {"vision_feature_select_strategy": "default"} if name == "llava_next" else {}
        found = inner.pack_image_features(features, given.inputs["image_sizes"], image_newline=None, **more)[0]
        return [one[:, 0] for one in found]
    side = round(numbers.shape[1] ** 0.5)
    square = numbers.view(-1, side, side)
    if name == "internvl":
        tokens = inner.pixel_shuffle(square[..., None], scale_factor=0.5).flatten(1, 2).max(-1).values
    elif name in ("idefics3", "smolvlm"):
        scale = inner.config.scale_factor
        tokens = inner.connector.pixel_shuffle(numbers[..., None], scale).max(-1).values
    else:
        tokens = torch.nn.functional.max_pool2d(square[:, None], side // 16).flatten(1)
    tiles = [len(grid.tiles) for grid in given.token_map.grids[0]]
    return [part.flatten() for part in tokens.split(tiles)]


def _canvas(config, size) -> int:
    from transformers.image_processing_utils import select_best_resolution

    high, wide = select_best_resolution(size.tolist(), config.image_grid_pinpoints)
    return high * wide // config.vision_config.image_size**2


def shared(tokens: Tensor, tile: Tensor) -> Tensor:
    """Each tile's tokens scaled to the part of the picture's tokens that they are."""
    out = torch.zeros_like(tokens)
    for t in tile.unique():
        mine = tile == t
        out[mine] = tokens[mine] / tokens[mine].sum() * mine.double().mean()
    return out


def lead(name: str) -> int:
    return int(name in ("llava_next", "internvl"))


@pytest.mark.parametrize("name", PICTURES)
def test_each_tiles_attention_is_put_at_its_tokens_by_its_share_of_them(name):
    given = prompted(name)
    assert isinstance(given.token_map.grids[0][0], TiledGrid)
    numbers = per_key(name)[:, lead(name) :]
    sequence = torch.arange(len(numbers))[:, None].expand_as(numbers)
    pairs = zip(packed(name, given, numbers), packed(name, given, sequence), strict=True)
    expected = torch.cat([shared(tokens, tile) for tokens, tile in pairs])
    edit = la.ReplaceAttention(la.VisionPrior(), keep_mass=False)
    _, cache = loaded(name).run_with_cache(given, ["blocks.0.attn.hook_pattern"], edit)
    row = cache["pattern", 0][0, :, -1]
    image = given.token_map["image"][0]
    assert int(image.sum()) == len(expected) and expected.max() > 1.2 * expected.mean()
    # Weights of the tower's attention, in another kernel.
    bounds.close(row[:, image], expected.float().expand(len(row), -1), bounds.depth(loaded(name).cfg))
    for k in range(len(given.token_map.grids[0])):
        own = row[0, given.token_map[f"image:{k}"][0]]
        bounds.close(own.sum(), torch.ones(()), bounds.sums(len(own)))
    _, plain = loaded(name).run_with_cache(given, ["blocks.0.attn.hook_pattern"])
    assert torch.equal(row[:, ~image], plain["pattern", 0][0, :, -1][:, ~image]), "a newline or a mark was given weight"


@pytest.mark.parametrize("name", ["llava_next", "smolvlm"])
def test_an_item_has_the_same_prior_in_a_batch(name):
    """Beside an item of whole pictures and one without any, in the batch's other order of tiles."""
    model, own = loaded(name), [noise(*size, seed) for seed, size in enumerate(PICTURES[name])]
    batch = model.prompt(["Is it red?", TEXT, TEXT], images=[[noise(90, 80, 5)], own, []])
    edit = la.ReplaceAttention(la.VisionPrior(), keep_mass=False)
    rows = []
    for item, given in ((0, prompted(name)), (1, batch)):
        _, cache = model.run_with_cache(given, ["blocks.0.attn.hook_pattern"], edit)
        rows.append(cache["pattern", 0][item, 0, -1][given.token_map["image"][item]])
    bounds.close(rows[1], rows[0], bounds.depth(model.cfg))


def test_tokens_that_are_interpolated_are_mixed_of_what_their_patches_have():
    """LLaVA-OneVision keeps nine tiles' worth of patches: the weights are those of the model's own interpolation."""
    name = "small llava_onevision"
    model = loaded(name)
    given = model.prompt(TEXT, images=[noise(380, 280), noise(100, 110, 1)])
    several = tower_tokens(model.hf.config, given)
    assert not isinstance(several, str) and several.shape == (2, 64), "pictures that share a prompt are not cut up"
    given = model.prompt(TEXT, images=[noise(380, 280)])
    tokens = tower_tokens(model.hf.config, given)
    assert not isinstance(tokens, str) and tokens.weights is not None
    detail = given.token_map.grids[0][0].tiles[1]
    # 448 x 336 holds it as 448 x 330: 32 x 24 patches, 1.15 times nine tiles of 8 x 8 along each side.
    assert (detail.rows, detail.cols) == (20, 27) and tokens.shape == (13, 64)
    numbers = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0))
    (expected,) = packed(name, given, numbers)
    mixed = (numbers.flatten()[tokens.index.clamp(min=0)] * tokens.weights).sum(-1)
    # Weights are shares of a patch; a place among 27 of them is off by a rounding of 27.
    bounds.close(mixed, expected, 27 * bounds.sums(4))
    assert tokens.sequence[:64].unique().tolist() == [0] and tokens.sequence.unique().tolist() == list(range(13))
    edit = la.ReplaceAttention(la.VisionPrior(), keep_mass=False)
    _, cache = model.run_with_cache(given, ["blocks.0.attn.hook_pattern"], edit)
    row = cache["pattern", 0][0, 0, -1][given.token_map["image"][0]]
    thumbnail = packed(name, given, eager(name, given).double().mean((1, 2)))[0][:64].float()
    bounds.close(row[:64] / row[:64].sum(), thumbnail / thumbnail.sum(), bounds.depth(model.cfg))
    for t in range(13):
        mine = tokens.sequence == t
        bounds.close(row[mine].sum(), mine.float().mean(), bounds.sums(len(row)))


@pytest.fixture(scope="module")
def crossed():
    return loaded("mllama").prompt([TEXT, TEXT], images=[[noise(60, 200), noise(90, 80, 1)], [noise(300, 100, 2)]])


def by_hand_crossed(given) -> Tensor:
    """``[item, key]``: each real key's weight averaged over the real queries that see it, one in all for a picture."""
    weights = eager("mllama", given).double().mean(1)  # [item and image, query, key]; a tile has 72 places, 65 real
    images, tiles = given.inputs["pixel_values"].shape[1:3]
    out = torch.zeros(len(given), images * tiles * 65, dtype=torch.float64)
    for i, own in enumerate(given.token_map.grids):
        for k, grid in enumerate(own):
            real = torch.zeros(tiles, 72, dtype=torch.bool)
            real[: len(grid.tiles), :65] = True
            rows = weights[i * images + k][real.flatten()]
            prior = (rows.sum(0) / (rows > 0).sum(0).clamp(min=1)).view(tiles, 72)[:, :65] * real[:, :65]
            out[i, k * tiles * 65 : (k + 1) * tiles * 65] = (prior / prior.sum()).flatten()
    return out


def test_keys_of_cross_attention_have_the_towers_attention(crossed):
    expected = by_hand_crossed(crossed).float()
    assert [str(grid) for grid in crossed.token_map.grids[0]] == ["2 of 8 x 8", "8 x 8"]
    keys = crossed.token_map.cross.resolve()
    assert (expected[~keys] == 0).all() and expected.max() > 1.5 * expected[keys].mean()
    model, name = loaded("mllama"), "blocks.1.attn.hook_pattern"
    _, cache = model.run_with_cache(crossed, [name], la.ReplaceAttention(la.VisionPrior(), keep_mass=False))
    row = cache[name][:, :, -1]
    real = keys[:, None].expand_as(row)
    bounds.close(row[real], expected[:, None].expand_as(row)[real], bounds.depth(model.cfg))


def test_complexity_on_keys_of_cross_attention_and_at_every_step(crossed):
    model = loaded("mllama")
    values = prompt_complexity(crossed)
    cross = crossed.token_map.cross
    for i, pictures in enumerate(crossed.images):
        for k, picture in enumerate(pictures):
            mine = (cross.image_index[i] == k) & (cross.patch_index[i] >= 0)
            boxes = crossed.token_map.grids[i][k].boxes()[cross.patch_index[i, mine]]
            bounds.close(values[i, mine], patch_complexity(picture, boxes), bounds.sums(len(boxes)))
    assert (values[cross.patch_index < 0] == 0).all()
    alone = crossed[0]
    edit = la.ReplaceAttention(la.Complexity(), keep_mass=False)
    fixed = la.ReplaceAttention(la.Fixed(values[0][cross.resolve()[0]]), keep_mass=False)
    logits = [model.run_with_hooks(alone, interventions=one) for one in (edit, fixed, None)]
    bounds.close(logits[0], logits[1], bounds.depth(model.cfg))
    assert bounds.moved(logits[0], logits[2], bounds.depth(model.cfg), times=1)
    assert model.generate(alone, interventions=edit, max_new_tokens=3).text == (
        model.generate(alone, interventions=fixed, max_new_tokens=3).text
    )


def test_complexity_compares_tiles_with_tiles_and_the_thumbnail_with_itself():
    given = prompted("internvl")
    (grid, whole), values = given.token_map.grids[0], prompt_complexity(given)[0]
    first = values[given.token_map["image:0"][0]]
    tiles, thumbnail = grid.boxes()[: 6 * 256], grid.boxes()[6 * 256 :]
    picture = given.images[0][0]
    bounds.close(first[: 6 * 256], patch_complexity(picture, tiles) * 6 / 7, bounds.sums(6 * 256))
    bounds.close(first[6 * 256 :], patch_complexity(picture, thumbnail) / 7, bounds.sums(256))
    other = patch_complexity(given.images[0][1], whole.boxes())
    bounds.close(values[given.token_map["image:1"][0]], other, bounds.sums(len(other)))


def test_features_that_come_in_elsewhere_than_at_the_tokens_are_refused():
    """Granite Vision adds what its tower makes between the layers of the decoder."""
    from lostattn.conformance.inputs import picture_inputs
    from lostattn.conformance.models import build

    module = build("granite4_vision", "sdpa")
    model = la.load(module, selftest=False)
    given = model.prompt(inputs=picture_inputs(module, "granite4_vision")[0])
    with pytest.raises(InputError, match="does not come into the embeddings of its image tokens"):
        model.run_with_hooks(given, interventions=la.ReplaceAttention(la.VisionPrior()))

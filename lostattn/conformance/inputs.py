"""An input with a picture for any family, made from its config and from the names of what its forward takes.

The layouts that families take their pixels in are few. Each is tried in turn; how many image tokens a picture makes is
read from what the model itself says when the number is wrong.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lostattn.conformance.exceptions import HANDED_ON, MORE_INPUTS, ROW_ENDS
from lostattn.conformance.shrink import WIDTH
from lostattn.errors import InputError, UnsupportedModel
from lostattn.model.lvlm import LVLM
from lostattn.prompt.batch import Prompt
from lostattn.prompt.parts import PARTS
from lostattn.prompt.picture_inputs import PICTURES
from lostattn.prompt.token_ids import image_token_id
from lostattn.prompt.token_map import TokenMap

BEFORE = [1, 5, 7]
AFTER = [8, 9, 10, 11, 12]
_COUNTS = re.compile(r"tokens:?\s*(\d+)[^\d]*features:?\s*(\d+)")


class NoInput(UnsupportedModel):
    """No layout of a picture that is known is taken by the model; the message holds what it said to each."""


def picture_inputs(model: nn.Module, family: str = "", seed: int = 0) -> tuple[dict[str, Tensor], str]:
    """Inputs of one item with one picture, and the name of the layout of its pixels (``"none"``: text only).

    Raises:
        NoInput: every layout was refused; with what the model said.
    """
    known = {*inspect.signature(model.forward).parameters, *HANDED_ON.get(family, ())}
    said: list[str] = []
    takes_picture = any(name.startswith(PICTURES) for name in known)
    for layout, pixels in _layouts(model.config, known, family, seed):
        found = _fitted(model, pixels, known, said, layout, ROW_ENDS.get(family))
        if found is not None:
            return found, layout
    if not takes_picture:
        beside = {name: value for name, value in MORE_INPUTS.get(family, {}).items() if name in known}
        found = _fitted(model, beside, known, said, "none")
        if found is not None:
            return found, "none"
    raise NoInput(f"{type(model).__name__} refuses every known layout of a picture: " + " | ".join(said))


def moved_picture(inputs: dict[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    """The same inputs with another picture."""
    generator = torch.Generator().manual_seed(seed)
    moved = dict(inputs)
    for name, value in inputs.items():
        if _is_pixels(name, value):
            moved[name] = torch.randn(value.shape, generator=generator)
        if name == "protein_input_ids":
            moved[name] = value.roll(1, dims=-1)
        if name == "flattened_patches":
            moved[name][..., :2] = value[..., :2]  # where each patch is
    return moved


def _is_pixels(name: str, value: Tensor) -> bool:
    return (name.startswith(PICTURES) or name == "high_res_pixel_values") and value.is_floating_point()


def _fitted(
    model: nn.Module,
    pixels: dict[str, Tensor],
    known: set[str],
    said: list[str],
    layout: str,
    row_end: int | None = None,
) -> dict[str, Tensor] | None:
    """The inputs of a layout with the number of image tokens that the model asks for."""
    token = image_token_id(None, model.config)
    if token is None and "image_embeds_position_mask" in known:
        token = 3  # the places are told by a mask; the token there may be any
    learned = [_number(model.config, "num_query_tokens", "latent_query_num"), 16]
    untried = [n for n in learned if n] if token is not None and pixels else [0]
    tried: list[int] = []
    while untried and len(tried) < 5:
        count = untried.pop(0)
        tried.append(count)
        inputs = {**_text(model.config, token, count, known, row_end), **pixels}
        try:
            with torch.no_grad():
                out = model(**inputs, use_cache=False) if "use_cache" in known else model(**inputs)
        except Exception as error:  # whatever a model says to a shape that it does not take
            message = " ".join(str(error).split())
            untried += [n for n in _wanted(message) if n not in (*tried, *untried)]  # what it says it wants
            if not untried:
                said.append(f"{layout}: {type(error).__name__} {message[:160]}")
            continue
        logits = getattr(out, "logits", None)
        if logits is None or not bool(torch.isfinite(logits).all()):
            said.append(f"{layout}: no finite logits")
            return None
        return inputs
    return None


def _wanted(message: str) -> list[int]:
    """How many image tokens the model says that the picture makes; some count numbers, tokens times width."""
    found = _COUNTS.search(message)
    if found is None:
        return []
    both = (int(found[2]), int(found[1]))
    return [n for f in both for n in (f // WIDTH if f % WIDTH == 0 else 0, f) if 0 < n <= 400]


def _text(config: Any, token: int | None, count: int, known: set[str], row_end: int | None) -> dict[str, Tensor]:
    picture = [token if token is not None else 0] * count
    if row_end is not None:  # the picture is square
        width = math.isqrt(count)
        picture = [one for k in range(0, count, width) for one in (*picture[k : k + width], row_end)]
    ids = [*BEFORE, *picture, *AFTER]
    row = torch.tensor([ids])
    out = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    is_image = (row == token).int() if token is not None else torch.zeros_like(row)
    extra = {
        "mm_token_type_ids": is_image,
        "token_type_ids": is_image.long(),
        "image_embeds_position_mask": is_image,
        "decoder_input_ids": torch.tensor([[1, *AFTER]]),
        "qformer_input_ids": torch.tensor([AFTER]),
        "image_attention_mask": torch.ones(1, len(ids), 1),
        "cross_attention_mask": torch.tensor([1, 0, 0, 0]).expand(1, len(ids), 1, 4),  # of four tiles, the one there is
    }
    out |= {name: value for name, value in extra.items() if name in known and value is not None}
    if "input_ids" not in known:
        out.pop("attention_mask")  # it is of the patches, all of which are there
    return {name: value for name, value in out.items() if name in known}


def _layouts(config: Any, known: set[str], family: str, seed: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The layouts in which pixels may come, with everything beside them that this forward takes."""
    generator = torch.Generator().manual_seed(seed)
    vision = getattr(config, "vision_config", None) or getattr(config, "vision_tokenizer_config", None) or config
    side = _number(vision, "image_size", "resolution") or 64
    patch = _number(vision, "patch_size") or 8
    frames = _number(vision, "temporal_patch_size", "patch_temporal") or 1
    channels = _number(vision, "num_channels", "in_channels", "in_chans") or 3
    rows = side // patch

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    grid = torch.tensor([[1, rows, rows]])
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(rows), indexing="ij"), -1).reshape(1, -1, 2)
    n, flat = rows * rows, channels * patch * patch
    beside = {
        "image_grid_thw": grid,
        "image_sizes": torch.tensor([[side, side]]),
        "spatial_shapes": torch.tensor([[rows, rows]]),
        "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.tensor([[[1, 0, 0, 0]]]),
        "image_position_ids": places.flip(-1),  # the column, then the row
        "pixel_position_ids": places.flip(-1),
        "grid_thws": grid,
        "target_sizes": torch.tensor([[rows, rows]]),
        "tgt_sizes": torch.tensor([[rows, rows]]),
        "high_res_pixel_values": random(1, channels, side, side),
        "image_grid_hw": torch.tensor([[rows, rows]]),
        "num_crops": torch.tensor([1]),
        "batch_num_images": torch.tensor([1]),
        **MORE_INPUTS.get(family, {}),
    }
    beside = {name: value for name, value in beside.items() if name in known}
    main = next((name for name in PICTURES if name in known), None)
    if main is None:
        return
    packed = {"image_grid_thw", "grid_thws", "target_sizes", "tgt_sizes"} & known
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("whole", (1, channels, side, side)),
        ("packed", (n, frames * flat)),
        ("packed", (n, flat)),
        ("tiles", (1, 2, channels, side, side)),
        ("tiles", (1, 1, channels, side, side)),
        ("sequence", (1, n, flat)),
        ("sequence", (1, n, frames * flat)),
        ("sequence", (1, n, flat + 2)),
        ("video", (1, frames, channels, side, side)),
        ("tiles", (1, 1, 4, channels, side, side)),
        ("packed", (n, channels, patch, patch)),
        ("packed", (n, channels, frames, patch, patch)),
        ("packed", (n, frames, patch, patch, channels)),
        ("strip", (1, channels, patch, n * patch)),
    ]
    if packed:
        shapes.sort(key=lambda one: one[0] != "packed")
    if "target_sizes" in known:  # patches side by side along one strip
        shapes.sort(key=lambda one: one[0] != "strip")
    if "image_position_ids" in known:
        shapes.sort(key=lambda one: one[0] != "sequence")
    for layout, shape in shapes:
        pixels = random(*shape)
        if main == "flattened_patches" and shape[-1] == flat + 2:
            pixels[..., :2] = places + 1.0  # each patch says its row and its column
        yield layout, {main: pixels, **_masks(known, shape, n), **beside}
        if beside:
            yield layout, {main: pixels, **_masks(known, shape, n)}


def _masks(known: set[str], shape: tuple[int, ...], n: int) -> dict[str, Tensor]:
    if "pixel_attention_mask" not in known:
        return {}
    if len(shape) == 5:
        return {"pixel_attention_mask": torch.ones(*shape[:2], *shape[3:], dtype=torch.long)}
    return {"pixel_attention_mask": torch.ones(1, n, dtype=torch.long)}


def _number(config: Any, *names: str) -> int | None:
    for name in names:
        value = getattr(config, name, None)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def prompt_of(model: LVLM, inputs: dict[str, Tensor]) -> Prompt:
    """A prompt of ready inputs; where its image tokens cannot be told apart, one whose positions are all text."""
    try:
        return model.prompt(inputs=inputs)
    except InputError:
        ids = inputs.get("input_ids")
        if ids is None:
            raise
        nowhere = torch.full_like(ids, -1)
        part = torch.full_like(ids, PARTS.index("template"), dtype=torch.int8)
        mask = inputs.get("attention_mask")
        if mask is not None and mask.shape == part.shape:
            part[mask == 0] = PARTS.index("padding")
        unknown = TokenMap(part, nowhere, nowhere.clone(), ((),) * len(ids), (False,) * len(ids))
        texts = tuple(tuple(f"<{i}>" for i in row) for row in ids.tolist())
        return Prompt(inputs, unknown, ("",) * len(ids), ((),) * len(ids), ("",) * len(ids), texts)

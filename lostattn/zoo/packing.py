"""Many questions about one scene in one sequence: the picture once, every question blind to the others.

A packed row reads `prefix | question 1 | answer 1 | question 2 | answer 2 | …`. The prefix holds the
picture and is seen by all; a question sees the prefix and itself, and its positions go on from the prefix
as if it stood alone. So every answer is computed exactly as from a prompt with that single question, at a
fraction of the cost.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lostattn.checkpoint.templates.chat import apply_chat_template


@dataclass(frozen=True)
class Asked:
    """One question of a packed row."""

    kind: str
    text: str
    answer: str
    n_images: int


@dataclass(frozen=True)
class Packed:
    """A batch of packed rows.

    Shapes: `input_ids [row, pos]`, `position_ids [axis, row, pos]` (one axis, or three under mRoPE),
    `mask [row, 1, pos, pos]` (True where attention may look), and, for every question in turn, `rows`,
    `columns` (where its answer is to be predicted) and `answers` (the token's id).
    """

    input_ids: Int[Tensor, "row pos"]
    position_ids: Int[Tensor, "axis row pos"]
    mask: Bool[Tensor, "row 1 pos pos"]
    rows: Int[Tensor, " question"]
    columns: Int[Tensor, " question"]
    answers: Int[Tensor, " question"]


class LlavaFamily:
    """CLIP features of a square of fixed size; one axis of positions."""

    axes = 1
    answer_prefix = " "

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.image_token = processor.image_token_id
        self.stop_token = processor.tokenizer.eos_token_id
        self.edge = processor.image_processor.crop_size["height"]

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of visual tokens of a picture of that width and height."""
        n = self.edge // self.processor.patch_size
        return n, n

    def image_positions(self, grid: tuple[int, int]) -> tuple[NDArray[np.int64], int]:
        """Positions of a picture's tokens from its first, `[axis, token]`, and how far the text moves on."""
        n = grid[0] * grid[1]
        return np.arange(n)[None], n

    def pixels(self, images: list[NDArray[np.uint8]]) -> Tensor:
        """What the image processor makes of pictures of one size, `[image, …]`."""
        ip = self.processor.image_processor
        edges = (self.edge, self.edge)
        small = [np.asarray(Image.fromarray(i).resize(edges, Image.Resampling.BICUBIC)) for i in images]
        mean, std = np.float32(ip.image_mean), np.float32(ip.image_std)
        scaled = (np.stack(small).astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())

    def encode(self, model: Any, pixels: Tensor, size: tuple[int, int]) -> Float[Tensor, "image token d"]:
        """The projector's outputs, in the decoder's order."""
        return torch.stack(list(model.model.get_image_features(pixels, return_dict=True).pooler_output))


class QwenFamily:
    """Pictures at their own size, 2 x 2 patches merged, three axes of positions.

    `encode` computes what the model's vision tower computes, for all pictures of a batch at once: the
    tower itself runs every window of every picture by its own call, which is slow for many small pictures.
    """

    axes = 3
    answer_prefix = ""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.image_token = processor.image_token_id
        self.stop_token = processor.tokenizer.eos_token_id
        self.patch = processor.image_processor.patch_size
        self.merge = processor.image_processor.merge_size

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of visual tokens of a picture of that width and height."""
        unit = self.patch * self.merge
        return size[1] // unit, size[0] // unit

    def image_positions(self, grid: tuple[int, int]) -> tuple[NDArray[np.int64], int]:
        """Positions of a picture's tokens from its first, `[axis, token]`, and how far the text moves on."""
        rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
        return np.stack([np.zeros_like(rows), rows, columns]), max(grid)

    def pixels(self, images: list[NDArray[np.uint8]]) -> Tensor:
        """What the image processor makes of pictures of one size, `[image, …]`."""
        ip = self.processor.image_processor
        mean, std = np.float32(ip.image_mean), np.float32(ip.image_std)
        x = ((np.stack(images).astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
        n, c, height, width = x.shape
        p, m, t = self.patch, self.merge, ip.temporal_patch_size
        x = x.reshape(n, c, height // p // m, m, p, width // p // m, m, p).transpose(0, 2, 5, 3, 6, 1, 4, 7)
        x = np.repeat(x[..., None, :, :], t, axis=-3)
        return torch.from_numpy(np.ascontiguousarray(x.reshape(n, height * width // p // p, c * t * p * p)))

    def encode(self, model: Any, pixels: Tensor, size: tuple[int, int]) -> Float[Tensor, "image token d"]:
        """The projector's outputs, in the decoder's order."""
        visual = model.model.visual
        n, patches, _ = pixels.shape
        position_ids, windows = _qwen_geometry(size, self.patch, self.merge, visual.window_size)
        # The convolution's kernel covers a patch exactly, so it is one matrix product.
        hidden = torch.nn.functional.linear(pixels, visual.patch_embed.proj.weight.flatten(1))
        cos, sin = (f[None, :, None] for f in visual.rotary_pos_emb(hidden, position_ids))
        for i, block in enumerate(visual.blocks):
            mask = None if i in visual.fullatt_block_indexes else windows
            attention = block.attn
            qkv = attention.qkv(block.norm1(hidden)).view(n, patches, 3, attention.num_heads, -1)
            q, k, v = qkv.unbind(2)
            q, k = (x * cos + _rotate_half(x) * sin for x in (q, k))
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            mixed, _ = float32_attention(attention, q, k, v, mask)
            hidden = hidden + attention.proj(mixed.reshape(n, patches, -1))
            hidden = hidden + block.mlp(block.norm2(hidden))
        return visual.merger(hidden.reshape(n * patches, -1)).view(n, patches // self.merge**2, -1)


def family_of(processor: Any) -> LlavaFamily | QwenFamily:
    """The family that a processor of `lostattn.zoo.recipe` belongs to."""
    return QwenFamily(processor) if "Qwen" in type(processor).__name__ else LlavaFamily(processor)


def float32_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """PyTorch's attention in float32 even under autocast: on a processor the backward pass in bfloat16 is
    slow.

    The signature is that of transformers' attention functions; returns `[batch, pos, head, d_head]`.
    """
    with torch.autocast("cpu", enabled=False):
        mixed = torch.nn.functional.scaled_dot_product_attention(
            query.float(),
            key.float(),
            value.float(),
            attn_mask=attention_mask,
            scale=kwargs.get("scaling"),
            enable_gqa=key.shape[1] != query.shape[1],
        )
    return mixed.transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def training_attention(model: Any) -> Iterator[None]:
    """Let the model use `float32_attention` inside the block."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name, before = "lostattn_float32", model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register(name, float32_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, sdpa_mask)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _rotate_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


@functools.lru_cache(maxsize=64)
def _qwen_geometry(
    size: tuple[int, int], patch: int, merge: int, window: int
) -> tuple[Int[Tensor, "patch 2"], Bool[Tensor, "patch patch"]]:
    """Rotary positions of one picture's patches, and which patches share a window."""
    from transformers.vision_utils import get_vision_position_ids

    grid = torch.tensor([[1, size[1] // patch, size[0] // patch]])
    position_ids = get_vision_position_ids(grid, merge)
    cell = position_ids // (window // patch)
    same = (cell[:, None] == cell[None]).all(-1)
    return position_ids, same


class Packer:
    """Builds packed rows for one model's tokenizer and template."""

    def __init__(self, family: LlavaFamily | QwenFamily) -> None:
        self.family = family
        self._cache: dict[tuple[str, int, tuple[int, int]], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._prefixes: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64], int]] = {}
        one, two = self._ids("Is there?", 1), self._ids("What?", 1)
        shared = 0
        while one[shared] == two[shared]:
            shared += 1
        # The prefix ends behind the picture and what always follows it; a second picture may come next.
        double = self._ids("What?", 2)
        while one[:shared] != double[:shared]:
            shared -= 1
        self._prefix_ids = one[:shared]

    def _ids(self, text: str, n_images: int) -> list[int]:
        """The whole prompt with one placeholder an image, up to where the answer begins."""
        processor = self.family.processor
        content: list[dict[str, str]] = [{"type": "image"}] * n_images + [{"type": "text", "text": text}]
        prompt = apply_chat_template(processor, [{"role": "user", "content": content}], add_generation_prompt=True)
        return processor.tokenizer(prompt)["input_ids"]

    def _place(
        self, ids: list[int], grid: tuple[int, int], start: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Ids with placeholders drawn out to pictures' tokens, their positions, and the next position."""
        out: list[int] = []
        positions: list[NDArray[np.int64]] = []
        for token in ids:
            if token == self.family.image_token:
                offsets, advance = self.family.image_positions(grid)
            else:
                offsets, advance = np.zeros((self.family.axes, 1), np.int64), 1
            out += [token] * offsets.shape[1]
            positions.append(offsets + start)
            start += advance
        return np.asarray(out), np.concatenate(positions, axis=1), start

    def _prefix(self, grid: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        if grid not in self._prefixes:
            self._prefixes[grid] = self._place(self._prefix_ids, grid, 0)
        return self._prefixes[grid]

    def _suffix(self, asked: Asked, grid: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        key = (asked.text, asked.n_images, grid)
        if key not in self._cache:
            whole = self._ids(asked.text, asked.n_images)
            n = len(self._prefix_ids)
            if whole[:n] != self._prefix_ids:
                raise RuntimeError(f"the template does not begin every prompt alike: {asked.text!r}")
            ids, positions, _ = self._place([*whole[n:], self.family.stop_token], grid, self._prefix(grid)[2])
            self._cache[key] = ids, positions
        return self._cache[key]

    def answer_id(self, answer: str) -> int:
        """The one token of an answer where the template ends."""
        ids = self.family.processor.tokenizer.encode(self.family.answer_prefix + answer, add_special_tokens=False)
        if len(ids) != 1:
            raise RuntimeError(f"the answer {answer!r} is {len(ids)} tokens; it should be one")
        return ids[0]

    def pack(self, rows: list[list[Asked]], size: tuple[int, int]) -> Packed:
        """One row for each list of questions; all pictures have that width and height."""
        grid = self.family.grid(size)
        prefix_ids, prefix_positions, _ = self._prefix(grid)
        built = []
        where: list[tuple[int, int, int]] = []
        for r, row in enumerate(rows):
            ids, positions, segments = [prefix_ids], [prefix_positions], [np.zeros(len(prefix_ids), np.int64)]
            length = len(prefix_ids)
            for s, asked in enumerate(row, start=1):
                suffix, suffix_positions = self._suffix(asked, grid)
                suffix = suffix.copy()
                suffix[-1] = self.answer_id(asked.answer)
                length += len(suffix)
                where.append((r, length - 2, int(suffix[-1])))
                ids.append(suffix)
                positions.append(suffix_positions)
                segments.append(np.full(len(suffix), s))
            built.append((np.concatenate(ids), np.concatenate(positions, axis=1), np.concatenate(segments)))
        return self._collate(built, where)

    def _collate(self, built: list[tuple[Any, Any, Any]], where: list[tuple[int, int, int]]) -> Packed:
        n = max(len(ids) for ids, _, _ in built)
        pad = self.family.processor.tokenizer.pad_token_id
        input_ids = np.full((len(built), n), pad, np.int64)
        position_ids = np.zeros((self.family.axes, len(built), n), np.int64)
        segments = np.full((len(built), n), -1, np.int64)
        for r, (ids, positions, segment) in enumerate(built):
            here = slice(0, len(ids))
            input_ids[r, here], position_ids[:, r, here], segments[r, here] = ids, positions, segment
        of = torch.from_numpy(segments)
        seen = (of[:, None, :] == 0) | (of[:, :, None] == of[:, None, :])
        mask = seen & torch.ones(n, n, dtype=torch.bool).tril()
        rows, columns, answers = torch.tensor(where).unbind(1)
        return Packed(
            torch.from_numpy(input_ids),
            torch.from_numpy(position_ids),
            mask[:, None],
            rows,
            columns,
            answers,
        )


def packed_hidden(
    model: Any, family: LlavaFamily | QwenFamily, packed: Packed, features: Float[Tensor, "image token d"]
) -> Float[Tensor, "row pos d"]:
    """The decoder's last hidden states on packed rows whose pictures, in order, have these features."""
    language = model.model.language_model
    embeds = model.get_input_embeddings()(packed.input_ids)
    at_image = (packed.input_ids == family.image_token).unsqueeze(-1)
    embeds = embeds.masked_scatter(at_image, features.to(embeds.dtype))
    allowed = torch.zeros((), dtype=embeds.dtype).masked_fill(~packed.mask, torch.finfo(embeds.dtype).min)
    position_ids = packed.position_ids if family.axes == 3 else packed.position_ids[0]
    return language(
        inputs_embeds=embeds, attention_mask=allowed, position_ids=position_ids, use_cache=False
    ).last_hidden_state

"""Tiny random LLaVA and Qwen2.5-VL models and inputs for tests: no two axes of one size, weights of order one.

``llava(seed)`` and ``qwen(seed)`` give the same weights whenever they are called with the same seed, so that an
independent, bare model stands beside every wrapped one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import bounds
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lostattn import LVLM

FAMILIES = ("llava", "qwen")
IMAGE = {"llava": 99, "qwen": 100}  # the image token
PATCHES = 25  # of a LLaVA picture: (35 / 7)²


def llava(seed: int = 0, attn_implementation: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """A LlavaForConditionalGeneration: CLIP tower of 3 layers (2 are read), decoder of 4 layers with 5 heads."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=33,
        intermediate_size=41,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=35,
        patch_size=7,
        projection_dim=17,
    )
    text = LlamaConfig(
        vocab_size=101,
        hidden_size=50,
        intermediate_size=59,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE["llava"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=PATCHES,
    )
    return _filled(LlavaForConditionalGeneration, config, seed, attn_implementation, dtype)


def qwen(seed: int = 0, attn_implementation: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """A Qwen2_5_VLForConditionalGeneration: windowed tower of 4 layers, decoder of 3 layers, 6 heads on 2 keys."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 103,
            "hidden_size": 60,
            "intermediate_size": 71,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 2, 2]},
        },
        vision_config={
            "depth": 4,
            "hidden_size": 36,
            "intermediate_size": 53,
            "num_heads": 3,
            "patch_size": 5,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 20,  # 4 × 4 patches
            "fullatt_block_indexes": [1, 3],
            "out_hidden_size": 60,
        },
        image_token_id=IMAGE["qwen"],
        video_token_id=101,
        vision_start_token_id=97,
        vision_end_token_id=98,
    )
    return _filled(Qwen2_5_VLForConditionalGeneration, config, seed, attn_implementation, dtype)


MAKERS: dict[str, Callable[..., Any]] = {"llava": llava, "qwen": qwen}


@functools.cache
def bare(family: str, attn_implementation: str = "sdpa") -> Any:
    """The plain Hugging Face model of seed 0, never wrapped; one for all tests of a process."""
    return MAKERS[family](attn_implementation=attn_implementation)


@functools.cache
def wrapped(family: str, attn_implementation: str = "sdpa") -> LVLM:
    """The same weights as an LVLM; one for all tests of a process."""
    from lostattn import load

    return load(MAKERS[family](attn_implementation=attn_implementation), selftest=False)


def _filled(kind: Any, config: Any, seed: int, attn_implementation: str, dtype: torch.dtype) -> Any:
    """A model whose every parameter is random, so that no zero bias and no unit norm hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    model = kind._from_config(config, attn_implementation=attn_implementation).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _fill(name, parameter, generator)
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    return model.to(dtype)


def _fill(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.dim() > 1:
        parameter.copy_(noise * parameter[0].numel() ** -0.5)
    elif name.endswith("bias"):
        parameter.copy_(0.3 * noise)
    else:
        parameter.copy_(1.0 + 0.2 * noise)


def llava_inputs(texts: list[list[int]] | None = None, seed: int = 0, pad_to: int = 0) -> dict[str, Tensor]:
    """One picture an item, then its text; padded on the left, at least to ``pad_to``."""
    texts = [[8, 9, 10, 11, 12]] if texts is None else texts
    generator = torch.Generator().manual_seed(seed)
    rows = [[1, 5, 7, *[IMAGE["llava"]] * PATCHES, *text] for text in texts]
    pixels = torch.randn(len(rows), 3, 35, 35, generator=generator)
    return {**_padded(rows, pad_to), "pixel_values": pixels}


def qwen_inputs(
    texts: list[list[int]] | None = None,
    grids: list[tuple[int, int, int]] | None = None,
    seed: int = 0,
    pad_to: int = 0,
) -> dict[str, Tensor]:
    """One picture an item, of ``(1, height, width)`` patches, then its text; padded on the left."""
    texts = [[8, 9, 10, 11, 12]] if texts is None else texts
    grids = [(1, 6, 10)] * len(texts) if grids is None else grids
    generator = torch.Generator().manual_seed(seed)
    rows = [
        [1, 5, 97, *[IMAGE["qwen"]] * (t * h * w // 4), 98, *text] for text, (t, h, w) in zip(texts, grids, strict=True)
    ]
    pixels = [torch.randn(t * h * w, 3 * 2 * 25, generator=generator) for t, h, w in grids]
    padded = _padded(rows, pad_to)
    return {
        **padded,
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": torch.tensor(grids),
        "mm_token_type_ids": (padded["input_ids"] == IMAGE["qwen"]).int(),
    }


INPUTS: dict[str, Callable[..., dict[str, Tensor]]] = {"llava": llava_inputs, "qwen": qwen_inputs}


def unequal(family: str) -> list[dict[str, Tensor]]:
    """Three inputs of one item each, of unequal lengths (and picture sizes, where the family has them)."""
    texts = [[8, 9, 10, 11, 12, 13, 14], [21, 22], [31, 32, 33, 34]]
    if family == "llava":
        return [llava_inputs([text], seed=i) for i, text in enumerate(texts)]
    grids = [(1, 4, 6), (1, 8, 10), (1, 6, 4)]
    return [qwen_inputs([t], [g], seed=i) for i, (t, g) in enumerate(zip(texts, grids, strict=True))]


def batched(family: str, singles: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of several single inputs, padded on the left."""
    rows = [single["input_ids"][0].tolist() for single in singles]
    out = {**_padded(rows, 0), "pixel_values": torch.cat([single["pixel_values"] for single in singles])}
    if family == "qwen":
        out["image_grid_thw"] = torch.cat([single["image_grid_thw"] for single in singles])
        out["mm_token_type_ids"] = (out["input_ids"] == IMAGE["qwen"]).int()
    return out


def text_inputs(family: str) -> dict[str, Tensor]:
    """Inputs without a picture."""
    inputs = _padded([[1, 5, 7, 8, 9, 10, 11]], 0)
    return inputs | ({"mm_token_type_ids": torch.zeros(1, 7, dtype=torch.int)} if family == "qwen" else {})


def positioned(family: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs with the position ids that the Hugging Face ``generate`` gives a padded batch.

    A plain forward of LLaVA counts padding; Qwen's looks at the mask itself.
    """
    if family == "qwen":
        return inputs
    mask = inputs["attention_mask"]
    return {**inputs, "position_ids": (mask.cumsum(-1) - 1).clamp_min(0)}


@functools.cache
def rounding(family: str) -> float:
    """How far two single-precision passes of this model may lie apart, as a share of the largest value.

    In double precision too, where norms (and the softmax of eager attention) work in single precision whatever they are
    given: a last bit that differs on the way in may turn a rounding there.
    """
    return bounds.passes(bare(family), positioned(family, batched(family, unequal(family))))


def _padded(rows: list[list[int]], pad_to: int) -> dict[str, Tensor]:
    length = max(pad_to, *map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}

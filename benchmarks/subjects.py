"""Random-weight models of realistic proportions, and prompts of a given number of visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IMAGE = 31999


@dataclass(frozen=True)
class Size:
    """A decoder and its tower, where they are and in which dtype."""

    name: str
    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    tower: tuple[int, int, int, int]  # layers, width, MLP width, heads
    patch: int = 14
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"LLaVA of {self.n_layers} layers, d_model {self.d_model}, {self.n_heads} heads, {kind}, {self.device}"


SMALL = Size("small", 8, 1024, 2816, 16, (2, 64, 128, 2))  # what costs is the decoder
LLAVA_7B = Size(
    "llava-7b", 32, 4096, 11008, 32, (24, 1024, 4096, 16), device="cuda", dtype=torch.bfloat16
)  # LLaVA-1.5-7B
QWEN_7B = Size(
    "qwen-7b", 28, 3584, 18944, 28, (32, 1280, 3420, 16), device="cuda", dtype=torch.bfloat16
)  # the dimensions of Qwen2.5-VL-7B's decoder and tower
SIZES = {size.name: size for size in (SMALL, LLAVA_7B, QWEN_7B)}


def llava(side: int, size: Size = SMALL, attn_implementation: str = "sdpa") -> Any:
    """A LLaVA with ``side²`` visual tokens."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    layers, width, hidden, heads = size.tower
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=size.patch * side,
            patch_size=size.patch,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            vocab_size=32000,
            hidden_size=size.d_model,
            intermediate_size=size.d_mlp,
            num_hidden_layers=size.n_layers,
            num_attention_heads=size.n_heads,
            num_key_value_heads=4 if size.name == "qwen-7b" else size.n_heads,
            max_position_embeddings=8192,
        ),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=side * side,
    )
    torch.manual_seed(0)
    with torch.device(size.device):
        model = LlavaForConditionalGeneration._from_config(
            config, attn_implementation=attn_implementation, dtype=size.dtype
        ).eval()
    # The model's own end token must not end a generation that is being timed.
    model.generation_config.update(eos_token_id=None, pad_token_id=0)
    return model.requires_grad_(False)


def inputs(side: int, size: Size = SMALL, n_text: int = 40) -> dict[str, Tensor]:
    """One picture, and text before and after it."""
    generator = torch.Generator().manual_seed(0)
    before = torch.randint(3, 31000, (5,), generator=generator)
    after = torch.randint(3, 31000, (n_text - 5,), generator=generator)
    ids = torch.cat([before, torch.full((side * side,), IMAGE), after])[None]
    pixels = torch.randn(1, 3, size.patch * side, size.patch * side, generator=generator)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels.to(size.dtype)}
    return {name: value.to(size.device) for name, value in given.items()}


def states(n_pos: int, d_model: int, n_layers: int, device: str = "cpu") -> list[Tensor]:
    """A residual stream of ``n_layers`` layers, an attention and an FFN update each: float32, of full rank."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.logspace(0, -2, d_model)
    stream = [torch.randn(n_pos, d_model, generator=generator) * spectrum]
    for _ in range(2 * n_layers):
        update = torch.randn(n_pos, d_model, generator=generator) * spectrum.flip(0)
        stream.append(stream[-1] + 0.1 * update)
    return [state.to(device) for state in stream]

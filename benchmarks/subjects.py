"""Random-weight LLaVA models of realistic proportions, and prompts of a given number of visual tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IMAGE = 31999


def llava(side: int, n_layers: int = 8, d_model: int = 1024, attn_implementation: str = "sdpa") -> Any:
    """A LLaVA whose decoder is what costs: a tower of two narrow layers, ``side²`` visual tokens."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=14 * side,
            patch_size=14,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            vocab_size=32000,
            hidden_size=d_model,
            intermediate_size=d_model * 11 // 4,
            num_hidden_layers=n_layers,
            num_attention_heads=d_model // 64,
            num_key_value_heads=d_model // 64,
            max_position_embeddings=8192,
        ),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=side * side,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attn_implementation).eval()
    # The model's own end token must not end a generation that is being timed.
    model.generation_config.update(eos_token_id=None, pad_token_id=0)
    return model.requires_grad_(False)


def inputs(side: int, n_text: int = 40) -> dict[str, Tensor]:
    """One picture, and text before and after it."""
    generator = torch.Generator().manual_seed(0)
    before = torch.randint(3, 31000, (5,), generator=generator)
    after = torch.randint(3, 31000, (n_text - 5,), generator=generator)
    ids = torch.cat([before, torch.full((side * side,), IMAGE), after])[None]
    pixels = torch.randn(1, 3, 14 * side, 14 * side, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

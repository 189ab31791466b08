"""What must be said about single families for a tiny model of them to be built; each entry says why."""

from __future__ import annotations

from typing import Any

import torch

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_COMPASS = {kind: {**_ROPE, "mrope_section": [2, 3, 3]} for kind in ("full_attention", "sliding_attention")}
_CHAMELEON_CODES = {f"IMGIMG{''.join(chr(65 + int(d)) for d in str(i))}Z": 100 + i for i in range(64)}
_EMU_CODES = {f"<|visual token {i:06d}|>": 100 + i for i in range(64)}

# By the path of a field below the config.
CONFIG_CHANGES: dict[str, dict[str, Any]] = {
    # Sizes that must agree with others and have no default that does.
    "dots3_note": {
        "text_config.head_dim": 24,
        "text_config.per_layer_config.2.head_dim": 40,
        "audio_config.adapter_input_size": 64,
        "audio_config.conv_output_size": 256,
    },
    # Layers of two kinds: with another number of key/value heads in a window, and with an adapter.
    "inkling_mm_model": {"text_config.swa_num_key_value_heads": 4},
    "evolla": {"aligner_num_add_layers": 1},
    "glm5_next": {"text_config.index_kpool": 2},
    "kimi_k25": {"text_config.head_dim": 8},
    "muse_glimmer": {"out_hidden_size": 256},
    "muse_spark": {"out_hidden_size": 256},
    "gemma4": {"vision_config.pooling_kernel_size": 2},
    "mistral_large4": {"text_config.head_dim": 8},
    "hunyuan_vl": {"text_config.head_dim": 16},
    "llama4": {"vision_config.vision_output_dim": 64, "vision_config.intermediate_size": 256},
    "mllama": {
        "vision_config.intermediate_layers_indices": [0],
        "vision_config.vision_output_dim": 128,
        "text_config.num_hidden_layers": 4,
        "text_config.cross_attention_layers": [1, 3],
    },
    "ernie4_5_vl_moe": {"text_config.rope_parameters.mrope_section": [3, 3, 2]},
    "molmo2": {"adapter_config.vision_feature_layer": [1, 0]},
    "pp_formulanet": {"vision_config.post_conv_in_channels": 64},
    "aria": {"projector_patch_to_query_dict": {64: 16}},
    "vipllava": {"vision_feature_layers": [0, 1]},
    # A tower of timm's, by the arguments of its own function: the same kinds of stages, cut in width and number.
    "fast_vlm": {
        "vision_config.model_args": {"layers": [1] * 5, "embed_dims": [16, 16, 16, 32, 32], "inference_mode": True},
        "vision_config.hidden_size": 64,
        "vision_config.image_size": 256,
    },
    "perception_lm": {
        "vision_config.architecture": "vit_pe_core_large_patch14_336",
        "vision_config.model_args": {
            "embed_dim": 64,
            "depth": 2,
            "num_heads": 4,
            "patch_size": 8,
            "img_size": [64, 64],
            "ref_feat_shape": [8, 8],
            "global_pool": "",
            "use_post_transformer_norm": False,
            "init_values": 0.1,
        },
        "vision_config.patch_size": 8,
        "projector_pooling_ratio": 2,
    },
    "gemma3n": {
        "vision_config.model_args": {"channel_multiplier": 0.05, "msfa_output_resolution": 4},
        "vision_config.hidden_size": 2048,  # what the tower puts together at its end, at any width
        # The vocabularies lie end to end: text, then pictures, then sounds.
        "vision_config.vocab_offset": 280,
        "vision_config.vocab_size": 3,
        "audio_config.vocab_offset": 283,
        "audio_config.vocab_size": 37,  # to the end, whose last one stands for what fills a short sound up
        "text_config.vocab_size_per_layer_input": 280,
        "text_config.intermediate_size": [112] * 4,
        "text_config.num_kv_shared_layers": 2,  # of four: one of each kind makes keys, one of each kind takes them over
    },
    # Fields that a checkpoint always has and the defaults leave out.
    "chameleon": {"vocabulary_map": {"<image>": 281, **_CHAMELEON_CODES}},
    "emu3": {
        "vq_config.hidden_size": 128,
        "vocabulary_map": {"<image>": 281, "<|extra_200|>": 99, **_EMU_CODES},
    },
    "cohere_compass": {"text_config.rope_parameters": _COMPASS},
    "deepseek_ocr2": {"text_config.mlp_layer_types": ["dense", "sparse"], "text_config.num_experts_per_tok": 2},
    "nemotron_h_omni": {"image_token_id": 281},
    "minicpm_ocr": {"image_token_id": 281},
    # The merger inside the tower stands behind a layer that there is.
    "minicpmv4_6": {"image_token_id": 281, "insert_layer_id": 0},
    "minicpmv4_7": {"image_token_id": 281, "insert_layer_id": 0},
    "granite_docling": {"vision_config.use_fine_route": False},
    "diffusion_gemma": {
        "text_config.num_experts": 4,
        "text_config.top_k_experts": 2,
        "text_config.moe_intermediate_size": 48,
        "canvas_length": 8,
        "vision_config.pooling_kernel_size": 2,
    },
    "granite4_vision": {"deepstack_layer_map": [[-1, 1]], "downsample_rate": "1/2"},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 300, "vision_end_token_id": 301},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 300, "vision_end_token_id": 301},
    "blip-2": {"image_token_index": 281},
    "instructblip": {"image_token_index": 281},
    "instructblipvideo": {"video_token_index": 281, "image_token_index": 281},
    "qwen4_exp": {
        "text_config.indexer_n_heads": 2,
        "text_config.indexer_kv_heads": 1,
        "text_config.indexer_head_dim": 16,
        "text_config.indexer_budget": 8,
        "text_config.indexer_compress_ratio": 2,
    },
    "step3p7": {"text_config.sliding_window": 9},
}

# What a class's own defaults lack or contradict, at its full size; by the path of a field below the config.
DEFAULT_CHANGES: dict[str, dict[str, Any]] = {
    "aya_vision": {"vision_config.num_attention_heads": 16},  # 14 do not divide the width of 1152
    "cohere_compass": {"text_config.rope_parameters": _COMPASS},
    # Only its checkpoints say which layers hold experts: all but the first.
    "deepseek_ocr2": {"text_config.mlp_layer_types": ["dense"] + ["sparse"] * 31, "text_config.num_experts_per_tok": 6},
    # Its layers are indexed by default, and the sizes of the index are the checkpoint's; 256 dimensions are rotated.
    "qwen4_exp": {
        "text_config.indexer_n_heads": 4,
        "text_config.indexer_kv_heads": 1,
        "text_config.indexer_head_dim": 256,
        "text_config.indexer_budget": 2048,
        "text_config.indexer_compress_ratio": 4,
    },
    "perception_lm": {
        "vision_config.architecture": "vit_pe_core_large_patch14_336",
        "vision_config.model_args": {
            "embed_dim": 1024,
            "img_size": [448, 448],
            "depth": 23,
            "global_pool": "",
            "use_post_transformer_norm": False,
            "init_values": 0.1,
            "ref_feat_shape": [32, 32],
        },
    },
}

# Sub-configs that are optional: without them there is no vision tower.
GIVEN: dict[str, dict[str, Any]] = {
    "gemma4": {"vision_config": {"model_type": "gemma4_vision"}, "audio_config": {"model_type": "gemma4_audio"}},
    "gemma4_unified": {
        "vision_config": {"model_type": "gemma4_unified_vision"},
        "audio_config": {"model_type": "gemma4_unified_audio"},
    },
}

# What stands after each row of a picture's tokens, where nothing else says how long a row is.
ROW_ENDS: dict[str, int] = {"fuyu": 279}

# Inputs that a forward hands on without naming them.
HANDED_ON: dict[str, tuple[str, ...]] = {"diffusion_gemma": ("pixel_values", "image_position_ids", "mm_token_type_ids")}

# Inputs beside the picture that no name tells the shape of.
MORE_INPUTS: dict[str, dict[str, Any]] = {
    "udop": {"bbox": torch.zeros(1, 8, 4, dtype=torch.long)},
    "video_llama_3": {"image_merge_sizes": torch.tensor([2])},
    "gemma4_unified": {"pixel_values": torch.randn(1, 64, 1728, generator=torch.Generator().manual_seed(0))},
    "granite_docling": {"pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool)},
    "inkling2": {
        "pixel_values": torch.randn(16, 16, 16, 3, generator=torch.Generator().manual_seed(0)),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    },
    # A small copy and one crop, 8 x 8 patches each; each token pools 2 x 2 of them.
    "molmo2": {
        "pixel_values": torch.randn(2, 64, 192, generator=torch.Generator().manual_seed(0)),
        "image_token_pooling": torch.arange(128).reshape(2, 4, 2, 4, 2).transpose(2, 3).reshape(32, 4),
        "image_grids": torch.tensor([[4, 4, 4, 4]]),
        "image_num_crops": torch.tensor([2]),
    },
    # Not a picture but a protein.
    "evolla": {
        "protein_input_ids": torch.arange(30, 42)[None],
        "protein_attention_mask": torch.ones(1, 12, dtype=torch.long),
    },
    "pi0": {
        "state": torch.zeros(1, 32),
        "noise": torch.ones(1, 50, 32),
        "timestep": torch.ones(1),
        "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool),
    },
}

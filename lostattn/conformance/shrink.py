"""Making a family's own config small: the same kinds of parts, in sizes that a test can run.

Nothing here knows a family (what must be said about single ones stands in :mod:`lostattn.conformance.exceptions`).
A config class is asked for its defaults; fields whose names say a size are set to a small one, lists that go by
layer are cut to one layer of each kind, and token ids are moved into the small vocabulary.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 320
FIRST_SPECIAL = 280  # special tokens take the ids from here on
WIDTH = 64
PICTURE = 64
PATCH = 8
HEAD = 16


def _named(size: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), size)


SIZES: dict[str, int] = {
    **_named(WIDTH, "hidden_size d_model width dim n_embd embed_dim word_embed_proj_dim"),
    **_named(WIDTH, "projection_dim vision_hidden_size encoder_hidden_size text_hidden_size out_hidden_size"),
    **_named(WIDTH, "input_dim projector_hidden_size decoder_hidden_size image_token_embed_dim projector_output_dim"),
    **_named(WIDTH, "projection_hidden_size projection_hidden_dim image_text_hidden_size post_conv_out_channels"),
    **_named(WIDTH, "vision_output_dim projector_input_dim adapter_in_dim adapter_out_dim output_dim output_channels"),
    **_named(112, "intermediate_size ffn_dim mlp_dim d_ff encoder_ffn_dim decoder_ffn_dim dense_intermediate_size"),
    **_named(112, "alignment_intermediate_size projection_intermediate_size merged_hidden_size"),
    **_named(2, "num_hidden_layers depth num_layers encoder_layers decoder_layers layers num_decoder_layers n_layers"),
    **_named(2, "resampler_depth num_global_layers conf_num_hidden_layers"),
    **_named(4, "num_attention_heads num_heads n_heads encoder_attention_heads attention_heads n_head"),
    **_named(4, "decoder_attention_heads resampler_n_heads swa_num_attention_heads num_sliding_attention_heads"),
    **_named(2, "num_key_value_heads swa_num_key_value_heads num_global_key_value_heads"),
    **_named(HEAD, "head_dim d_kv resampler_head_dim swa_head_dim global_head_dim v_head_dim index_head_dim"),
    **_named(HEAD, "qk_nope_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim indexer_head_dim"),
    **_named(8, "qk_rope_head_dim rotary_dim"),
    **_named(24, "qk_head_dim kv_lora_rank"),
    **_named(40, "q_lora_rank"),
    **_named(4, "num_experts n_routed_experts num_local_experts moe_num_experts index_n_heads linear_num_heads"),
    **_named(2, "linear_num_key_heads"),
    **_named(4, "linear_num_value_heads"),
    **_named(2, "num_experts_per_tok moe_topk moe_k top_k_experts"),
    **_named(48, "moe_intermediate_size shared_expert_intermediate_size intermediate_size_mlp share_expert_dim"),
    **_named(48, "shared_intermediate_size shared_experts_intermediate_size moe_shared_expert_intermediate_size"),
    **_named(VOCABULARY, "vocab_size vocab_size_per_layer_input"),
    **_named(PICTURE, "image_size max_image_size resolution"),
    **_named(PATCH, "patch_size pos_emb_height pos_emb_width posemb_grid_size"),
    **_named((PICTURE // PATCH) ** 2, "num_position_embeddings num_patches max_num_patches"),
    **_named(3 * PATCH * PATCH, "patch_embed_hidden_size"),
    **_named(16, "image_seq_length mm_tokens_per_image num_image_tokens vision_soft_tokens_per_image"),
    **_named(6, "num_query_tokens latent_query_num resampler_n_latents resampler_num_latents"),
    **_named(9, "sliding_window sliding_window_size attention_chunk_size"),
    **_named(512, "max_position_embeddings seq_len img_max_token_num max_2d_position_embeddings max_vit_seq_len"),
    **_named(HEAD, "query_pre_attn_scalar hidden_size_per_layer_input laurel_rank d_rel"),
    **_named(16, "ssm_state_size mamba_head_dim chunk_size downsample_hidden_size"),
    **_named(4, "mamba_num_heads index_topk index_topk_blocks"),
    **_named(2, "n_groups index_block_size"),
    **_named(32, "base_channels"),
    **_named(WIDTH, "downsample_channels"),
    **_named(64, "unpadded_vocab_size num_embeddings codebook_size rel_extent"),
    **_named(1, "first_k_dense_replace n_group topk_group number_of_conv_states"),
}
BY_INDEX = ("idx", "ids", "indexes", "indices", "layers")  # endings of lists that name layers by number


def shrunk(data: dict[str, Any]) -> dict[str, Any]:
    """A small version of ``config.to_dict()``, sub-configs too."""
    return _shrunk(data, {})


def _shrunk(data: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    kept = _kept_layers(data)
    small: dict[str, Any] = {}
    for name, value in data.items():
        small[name] = _value(name, value, kept, ids)
    if data.get("num_key_value_heads") == data.get("num_attention_heads") and "num_attention_heads" in data:
        small["num_key_value_heads"] = small["num_attention_heads"]
    _unlike(data, small, kept)
    rope = small.get("rope_parameters")
    if isinstance(rope, dict) and "rope_type" in rope:
        # A multimodal rotary embedding shares half of what it turns out to time, height and width.
        half = int(HEAD * (rope.get("partial_rotary_factor") or small.get("partial_rotary_factor") or 1.0)) // 2
        rope["mrope_section"] = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    for name in ("num_hidden_layers", "layers", "num_layers", "depth"):
        if isinstance(data.get(name), int):
            small[name] = len(kept)
    return small


def _kept_layers(data: dict[str, Any]) -> list[int]:
    """One layer of each kind, and two at the least."""
    n = next((data[k] for k in ("num_hidden_layers", "depth", "num_layers") if isinstance(data.get(k), int)), 2)
    lists = [v for k, v in data.items() if isinstance(v, list) and len(v) == n > 2 and _by_layer(k, v)]
    kinds: dict[str, int] = {}
    for i in range(n):
        kinds.setdefault(repr([v[i] for v in lists]), i)
    kept = sorted(kinds.values())[:5]
    kept += [i for i in range(n) if i not in kept][: max(0, 2 - len(kept))]
    return sorted(kept) if n > 1 else [0, 1]


def _by_layer(name: str, value: list[Any]) -> bool:
    """Whether a list of as many as there are layers says something of each, and does not name some by number."""
    return not name.endswith(BY_INDEX) or all(isinstance(v, int) for v in value) and set(value) <= {0, 1}


def _value(name: str, value: Any, kept: list[int], ids: dict[str, int]) -> Any:
    if isinstance(value, dict):
        return _mapping(name, value, kept, ids)
    if "token" in name and name.endswith(("_id", "_index", "_ids")) or name in ("image_patch_id", "im_newline_id"):
        return _token(name, value, ids)
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if name == "window_size":
        return 32 if value > 50 else 4
    if isinstance(value, list):
        return _listed(name, value, kept)
    return min(SIZES[name], value) if name in SIZES and isinstance(value, int) else value


def _unlike(data: dict[str, Any], small: dict[str, Any], kept: list[int]) -> None:
    """Make single layers' own sizes unlike those of all where they are so in the real config: half of it, or twice."""
    own = {int(layer): values for layer, values in (data.get("per_layer_config") or {}).items()}
    for layer, sizes in (small.get("per_layer_config") or {}).items():
        for name, size in sizes.items():
            common, usual, real = data.get(name), small.get(name), own[kept[int(layer)]][name]
            if name in SIZES and isinstance(common, int) and isinstance(real, int) and size == usual and real != common:
                sizes[name] = 2 * size if real > common else max(1, size // 2)


def _mapping(name: str, value: dict[Any, Any], kept: list[int], ids: dict[str, int]) -> dict[Any, Any]:
    if value and all(str(key).isdigit() for key in value) and all(isinstance(v, dict) for v in value.values()):
        return {str(kept.index(int(k))): _shrunk(v, ids) for k, v in value.items() if int(k) in kept}
    if name.endswith("config") or name in ("encoder", "decoder"):
        return _shrunk(value, ids)
    return {k: _value(k, v, kept, ids) if isinstance(k, str) else v for k, v in value.items()}


def _token(name: str, value: Any, ids: dict[str, int]) -> Any:
    plain = {"pad": 0, "bos": 1, "eos": 2, "decoder_start": 1, "forced_eos": 2, "forced_bos": 1}
    role = name.lstrip("_").removesuffix("s").rsplit("_token_", 1)[0]
    if value is None:
        return value
    if role in plain:
        return plain[role]
    if isinstance(value, list):
        return [ids.setdefault(f"{role} {i}", FIRST_SPECIAL + len(ids)) for i in range(len(value))]
    return ids.setdefault(role, FIRST_SPECIAL + len(ids))


def _listed(name: str, value: list[Any], kept: list[int]) -> list[Any]:
    if name == "image_grid_pinpoints":
        return [[PICTURE, PICTURE], [PICTURE, 2 * PICTURE], [2 * PICTURE, PICTURE]]
    numbers = all(isinstance(v, int) for v in value)
    if name.endswith(BY_INDEX) and numbers and value:
        return _of_kept(value, kept)
    if len(value) > max(kept) and len(value) > 4 and name != "channel_multiplier":
        return [value[i] for i in kept]
    if name in ("embed_dim", "hidden_sizes"):
        return [WIDTH // 4 * (i + 1) for i in range(len(value))]
    if name in SIZES and numbers:
        return [min(SIZES[name], v) for v in value]
    return value


def _of_kept(value: list[int], kept: list[int]) -> list[int]:
    """A list of layers by index, or a flag for each layer, for the layers that are kept."""
    if set(value) <= {0, 1} and len(value) > 2:
        return [value[i] for i in kept]
    return sorted({kept.index(v) for v in value if v in kept}) or [len(kept) - 1]

"""The hook-name grammar: TransformerLens' names, their shorthand and their aliases.

One value has one canonical key. The canonical keys of a decoder block ``i`` are, in the order of the
forward pass::

    blocks.{i}.hook_resid_pre      ln1.hook_scale  ln1.hook_normalized  ln1.hook_out
               attn.hook_q  attn.hook_k  attn.hook_v  attn.hook_rot_q  attn.hook_rot_k
               attn.hook_attn_scores  attn.hook_pattern  attn.hook_z  attn.hook_result
               hook_attn_out       hook_resid_mid
               ln2.hook_scale  ln2.hook_normalized  ln2.hook_out
               mlp.hook_pre  mlp.hook_pre_linear  mlp.hook_post  hook_mlp_out  hook_resid_post
               hook_between

Where cross-attention (to an encoder's sequence, to a picture) stands beside self-attention, after ``ln2`` come::

               cross_attn.hook_q  cross_attn.hook_k  …  (the same as of ``attn``)
               hook_cross_attn_out  hook_resid_mid_cross
               ln3.hook_scale  ln3.hook_normalized  ln3.hook_out

``hook_between`` is what the decoder adds to the stream after this layer and before the next (Qwen3-VL's deepstack
features; ``hook_deepstack`` is an alias). It exists where something is added.

Every other spelling that TransformerBridge uses (``blocks.3.attn.o.hook_in``, ``blocks.3.hook_out``, …)
and the shorthand of ``transformer_lens.utilities.get_act_name`` (``"pattern3"``, ``("resid_post", -1)``)
is an alias that resolves to one of these.
"""

from __future__ import annotations

import re

from lostattn.kernels.point_names import is_square as is_square

# What an attention offers.
ATTENTION = ("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "result")

# What a block offers, in the order of the forward pass.
BLOCK_HOOKS = (
    "hook_resid_pre",
    "ln1.hook_scale",
    "ln1.hook_normalized",
    "ln1.hook_out",
    *(f"attn.hook_{point}" for point in ATTENTION),
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.hook_scale",
    "ln2.hook_normalized",
    "ln2.hook_out",
    *(f"cross_attn.hook_{point}" for point in ATTENTION),
    "hook_cross_attn_out",
    "hook_resid_mid_cross",
    "ln3.hook_scale",
    "ln3.hook_normalized",
    "ln3.hook_out",
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
    "hook_between",
)

# Another spelling of a point inside a block -> its canonical spelling.
BLOCK_ALIASES = {
    "hook_in": "hook_resid_pre",
    "hook_out": "hook_resid_post",
    "hook_deepstack": "hook_between",
    "ln1.hook_in": "hook_resid_pre",
    "ln2.hook_in": "hook_resid_mid",
    "hook_resid_mid2": "hook_resid_mid_cross",
    "ln3.hook_in": "hook_resid_mid_cross",
    "attn.hook_in": "ln1.hook_out",
    "attn.q.hook_in": "ln1.hook_out",
    "attn.k.hook_in": "ln1.hook_out",
    "attn.v.hook_in": "ln1.hook_out",
    "attn.qkv.hook_in": "ln1.hook_out",
    "attn.q.hook_out": "attn.hook_q",
    "attn.k.hook_out": "attn.hook_k",
    "attn.v.hook_out": "attn.hook_v",
    "attn.o.hook_in": "attn.hook_z",
    "attn.o.hook_out": "hook_attn_out",
    "attn.proj.hook_out": "hook_attn_out",
    "attn.hook_out": "hook_attn_out",
    "cross_attn.q.hook_out": "cross_attn.hook_q",
    "cross_attn.k.hook_out": "cross_attn.hook_k",
    "cross_attn.v.hook_out": "cross_attn.hook_v",
    "cross_attn.o.hook_in": "cross_attn.hook_z",
    "cross_attn.o.hook_out": "hook_cross_attn_out",
    "cross_attn.hook_out": "hook_cross_attn_out",
    "mlp.hook_in": "ln2.hook_out",
    "mlp.gate.hook_in": "ln2.hook_out",
    "mlp.in.hook_in": "ln2.hook_out",
    "mlp.gate.hook_out": "mlp.hook_pre",
    "mlp.out.hook_in": "mlp.hook_post",
    "mlp.out.hook_out": "hook_mlp_out",
    "mlp.hook_out": "hook_mlp_out",
}

# In a vision tower alone: in a decoder TransformerLens means the stream before the norm by these.
VISION_ALIASES = {
    "hook_attn_in": "ln1.hook_out",
    "hook_mlp_in": "ln2.hook_out",
}

# Spellings under which TransformerBridge edits what one reader sees, where the canonical point feeds several.
ONE_OF_SEVERAL_READERS = (
    "ln1.hook_in",
    "ln2.hook_in",
    "norm1.hook_in",
    "norm2.hook_in",
    "attn.q.hook_in",
    "attn.k.hook_in",
    "attn.v.hook_in",
    "mlp.gate.hook_in",
    "mlp.in.hook_in",
)

# Points outside any block: another spelling -> canonical.
OUTER_ALIASES = {
    "embed.hook_out": "hook_embed",
    "unembed.hook_out": "hook_unembed",
    "unembed.hook_in": "ln_final.hook_out",
    "vision_encoder.hook_out": "vision_encoder.hook_vision_out",
    "vision_encoder.embeddings.hook_out": "vision_encoder.hook_vision_embed",
    "vision_encoder.patch_embed.hook_out": "vision_encoder.hook_vision_embed",
    "vision_encoder.pre_layernorm.hook_in": "vision_encoder.hook_vision_embed",
    "vision_encoder.pre_layernorm.hook_out": "vision_encoder.encoder_layers.0.hook_resid_pre",
    "vision_projector.hook_vision_proj_in": "vision_projector.hook_in",
    "vision_projector.hook_vision_proj_out": "vision_projector.hook_out",
}

_BLOCK = re.compile(r"^(?P<stack>blocks|vision_encoder\.(?:blocks|encoder_layers))\.(?P<layer>-?\d+)\.(?P<point>.+)$")
_SHORT = re.compile(r"([a-z]+)(\d+)([a-z]?.*)")
_LAYER_TYPES = {
    "a": "attn",
    "m": "mlp",
    "b": "",
    "block": "",
    "blocks": "",
    "attention": "attn",
    "cross": "cross_attn",
}
_ACTIVATIONS = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
}
_OF_MLP = {"pre", "post", "mid", "pre_linear"}
_OF_NORM = {"scale", "normalized"}


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """TransformerLens' shorthand for a hook point, written out.

    The grammar of ``transformer_lens.utilities.get_act_name``, without importing TransformerLens::

        get_act_name("k", 6)                 == "blocks.6.attn.hook_k"
        get_act_name("pattern3")             == "blocks.3.attn.hook_pattern"
        get_act_name("normalized", 27, "ln2") == "blocks.27.ln2.hook_normalized"
        get_act_name("scale4ln1")            == "blocks.4.ln1.hook_scale"
        get_act_name("embed")                == "hook_embed"

    and, beside that grammar, points of cross-attention::

        get_act_name("cross_pattern", 3) == get_act_name("pattern", 3, "cross_attn")
                                         == "blocks.3.cross_attn.hook_pattern"
    """
    if ("." in name or name.startswith("hook_")) and layer is None and layer_type is None:
        return name
    short = _SHORT.match(name)
    if short is not None:
        name, layer, layer_type = short.group(1), short.group(2), short.group(3) or layer_type
    if layer_type is not None:
        layer_type = _LAYER_TYPES.get(layer_type, layer_type)
    inner = name.removeprefix("cross_")
    if inner != name and _ACTIVATIONS.get(inner, inner) in ATTENTION:
        name, layer_type = inner, "cross_attn"
    name = _ACTIVATIONS.get(name, name)
    if name in ATTENTION:
        layer_type = "cross_attn" if layer_type == "cross_attn" else "attn"
    elif name in _OF_MLP:
        layer_type = "mlp"
    parts = []
    if layer is not None:
        parts.append(f"blocks.{layer}")
    if layer is None and name in _OF_NORM:
        parts.append("ln_final")
    if layer_type:
        parts.append(layer_type)
    return ".".join([*parts, f"hook_{name}"])


def split_block(name: str) -> tuple[str, int, str] | None:
    """``(stack, layer, point)`` of a name inside a block, or ``None`` for a point outside the blocks."""
    found = _BLOCK.match(name)
    return (found["stack"], int(found["layer"]), found["point"]) if found else None


def canonical(name: str, n_layers: int, n_vision_layers: int = 0, vision_stack: str = "vision_encoder.blocks") -> str:
    """The canonical key that ``name`` (full, alias or shorthand) stands for; negative layers count from the end.

    The name need not exist: a point that nothing offers comes back as it was written, for the caller to
    look up and refuse with the names that do exist.
    """
    name = get_act_name(name)
    inside = split_block(name)
    if inside is None:
        return OUTER_ALIASES.get(name, name)
    stack, layer, point = inside
    if stack == "blocks":
        layer += n_layers if layer < 0 else 0
    else:
        layer += n_vision_layers if layer < 0 else 0
        stack = vision_stack
        point = VISION_ALIASES.get(point, point)
    point = re.sub(r"^norm([12])\.", r"ln\1.", point)
    return f"{stack}.{layer}.{BLOCK_ALIASES.get(point, point)}"

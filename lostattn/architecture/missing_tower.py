"""Why a model that takes pictures has no vision tower with attention to look into, as far as its modules show it."""

from __future__ import annotations

from typing import Any

from torch import nn

_TOWERS = ("vision_tower", "vision_model", "visual", "vision_encoder", "image_encoder", "vision_backbone", "encoder")
_SEES = ("vision", "visual", "image", "patch_embed")
_CODES = ("quantize", "quantizer")  # what a model of discrete codes holds


def why_no_tower(model: Any) -> str:
    """A sentence about the module that pictures go through; empty for a model in which none is found."""
    modules = [(path, module) for path, module in model.named_modules() if path]
    for found in (_of_timm, _of_codes, _own_attention, _projected):
        for path, module in modules:
            if said := found(path, module):
                return said
    return ""


def _of_timm(path: str, module: nn.Module) -> str:
    if not type(module).__name__.startswith("TimmWrapper"):
        return ""
    name = getattr(getattr(module, "config", None), "architecture", None)
    return (
        f"{path!r} is a model of timm{f' ({name})' if name else ''}: what attention it has is not made through "
        "transformers' attention interface."
    )


def _of_codes(path: str, module: nn.Module) -> str:
    if not any(isinstance(getattr(module, name, None), nn.Module) for name in _CODES):
        return ""
    return (
        f"Pictures become discrete codes through {path!r} ({type(module).__name__}), and their tokens are embeddings "
        "of these codes."
    )


def _own_attention(path: str, module: nn.Module) -> str:
    """A tower whose attention is computed in its own modules, or that has none."""
    name, kind = path.rpartition(".")[2], type(module).__name__
    if name not in _TOWERS or not ("Vision" in kind or "Image" in kind) or not list(module.children()):
        return ""
    inner = {type(part).__name__ for part in module.modules()}
    attention = sorted(one for one in inner if "Attention" in one or "Attn" in one)
    if not attention:
        return f"{path!r} ({kind}) holds no attention."
    return (
        f"The attention of {path!r} ({kind}) is computed in {attention[0]} itself and not through transformers' "
        "attention interface."
    )


def _projected(path: str, module: nn.Module) -> str:
    name = path.rpartition(".")[2]
    if not any(word in name for word in _SEES) or name in _TOWERS:
        return ""
    return f"Patches are projected straight into the stream, by {path!r} ({type(module).__name__})."

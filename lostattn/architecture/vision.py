"""The vision tower, its embedding, and the projector into the decoder's space."""

from __future__ import annotations

from typing import Any

from torch import nn

from lostattn.architecture.call_order import forward_calls
from lostattn.architecture.layer import stack_of, tells_heads
from lostattn.architecture.missing_tower import why_no_tower
from lostattn.architecture.structure import Vision
from lostattn.checkpoint.kinds import is_text_only
from lostattn.errors import UnsupportedModel

PROJECTORS = (
    "multi_modal_projector",
    "merger",
    "connector",
    "projector",
    "aligner",
    "modality_projection",
    "mlp1",
    "embed_vision",
    "mm_projector",
    "vision_projector",
)
NOT_A_TOWER = ("video", "audio", "qformer", "projector", "resampler", "perceiver", "connector")  # if there is another
EMBEDDINGS = ("embeddings", "patch_embed", "patch_embedding", "patch_conv", "patch_embedder")


def vision_if_any(model: Any, stacks: dict[str, list[nn.Module]], decoder: str) -> tuple[Vision | None, str]:
    """The vision tower; or none, and why, where the model has one in which nothing is found."""
    try:
        found = _vision(model, stacks, decoder)
        return found, "" if found is not None or is_text_only(model.config) else why_no_tower(model)
    except (UnsupportedModel, AttributeError) as error:
        return None, str(error)


def _vision(model: Any, stacks: dict[str, list[nn.Module]], decoder: str) -> Vision | None:
    config = _vision_config(model.config)
    if config is None or not stacks:
        return None
    layers = max(stacks, key=lambda path: (not _beside_a_tower(path), of_pictures(path), len(stacks[path])))
    base_path = ".".join(_shared(decoder.split("."), layers.split(".")))
    base = model.get_submodule(base_path)
    prefix = f"{base_path}." if base_path else ""
    tower_name = layers.removeprefix(prefix).split(".")[0]
    tower_path = f"{prefix}{tower_name}"
    tower = getattr(base, tower_name)
    projector, inside = _projector(base, prefix, tower, tower_path)
    embed = next((n for n in EMBEDDINGS if hasattr(tower, n)), None)
    style = "blocks" if layers.endswith(".blocks") else "encoder_layers"
    calls = [name for name, _ in forward_calls(base)]
    return Vision(
        path=tower_path,
        embed=f"{tower_path}.{embed}" if embed else None,
        stack=stack_of(f"vision_encoder.{style}", layers, stacks[layers], _sizes(model, config, layers, tower_path)),
        projector=projector,
        projector_inside=inside,
        before_embed=_position(calls, "get_image_features") < _position(calls, "get_input_embeddings"),
        n_read=_layers_read(model.config, len(stacks[layers])),
    )


def of_pictures(path: str) -> bool:
    """Whether the path of a list of layers says that they see pictures."""
    return any(word in path for word in ("vision", "visual", "image"))


def _beside_a_tower(path: str) -> bool:
    return any(word in path for word in NOT_A_TOWER)


def _vision_config(config: Any) -> Any:
    """The vision tower's config, the encoder's where that sees the pictures; ``None`` for a model without one."""
    encoder = getattr(config, "encoder", None)
    found = getattr(config, "vision_config", None) or getattr(encoder, "vision_config", None)
    return found or (encoder if hasattr(encoder, "image_size") else None)


def _sizes(model: Any, config: Any, layers: str, tower: str) -> Any:
    """The config that says how wide the layers are: the vision config, or that of the tower's part that holds them."""
    holders = [layers[:end] for end, letter in enumerate(layers) if letter == "." and end >= len(tower)]
    own = [getattr(model.get_submodule(path), "config", None) for path in reversed(holders)]
    return next((one for one in (config, *own) if one is not None and tells_heads(one)), config)


def _shared(one: list[str], other: list[str]) -> list[str]:
    """What two paths begin with together."""
    n = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:n]


def _layers_read(config: Any, n_layers: int) -> int:
    """How many vision layers feed the projector: LLaVA takes a hidden state from before the last layer."""
    chosen = getattr(config, "vision_feature_layer", None)
    if chosen is None:
        return n_layers
    states = [chosen] if isinstance(chosen, int) else list(chosen)
    return max(state if state >= 0 else n_layers + 1 + state for state in states)


def _projector(base: nn.Module, prefix: str, tower: nn.Module, tower_path: str) -> tuple[str | None, bool]:
    for name in PROJECTORS:
        if isinstance(getattr(base, name, None), nn.Module):
            return f"{prefix}{name}", False
        if isinstance(getattr(tower, name, None), nn.Module):
            return f"{tower_path}.{name}", True
    return None, False


def _position(calls: list[str], name: str) -> int:
    return next((i for i, call in enumerate(calls) if name in call), len(calls))

"""A sound among the tokens of a prompt, for the families that take one: made as the picture is, from names alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lostattn.conformance.comparison import Absent
from lostattn.conformance.inputs import AFTER

_HOLD = ("input_features", "input_values", "audio_input_ids")  # what a sound comes in
_FRAMES = 100


def with_sound(model: nn.Module, inputs: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor] | None:
    """The inputs of one item with a sound before the last words; None for a family that takes none.

    Raises:
        Absent: no layout of a sound that is known is taken; with what the model said.
    """
    known = inspect.signature(model.forward).parameters
    token = next((t for n in ("audio_token_id", "audio_token_index") if (t := getattr(model.config, n, None))), None)
    if token is None or not any(name in known for name in _HOLD):
        return None
    said = []
    for sound in _layouts(model, set(known), torch.Generator().manual_seed(seed)):
        try:
            return _among(inputs, sound, int(token), _count(model, sound))
        except Exception as error:  # whatever a model says to a shape that it does not take
            said.append(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")
    raise Absent(f"no layout of a sound that is known is taken: {' | '.join(said)}")


def moved_sound(inputs: dict[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    """The same inputs with another sound."""
    generator = torch.Generator().manual_seed(seed)
    moved = dict(inputs)
    for name in _HOLD:
        if name in inputs:
            value = inputs[name]
            floats = value.is_floating_point()
            moved[name] = torch.randn(value.shape, generator=generator) if floats else (value + 1) % (value.max() + 1)
    return moved


def _layouts(model: Any, known: set[str], generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
    config = getattr(model.config, "audio_config", None)
    names = ("num_mel_bins", "input_feat_size", "feature_size", "n_mel_bins", "audio_embed_dim")
    mel = next((n for name in names if (n := getattr(config, name, None))), 128)
    # A family that always makes the same number of tokens of a sound fills them up where it is short.
    frames = 16 * getattr(model.config, "audio_soft_tokens_per_image", 0) or _FRAMES
    if "feature_attention_mask" in known:
        mask = torch.ones(1, frames, dtype=torch.long)
        yield {"input_features": torch.randn(1, mel, frames, generator=generator), "feature_attention_mask": mask}
    if "input_features_mask" in known:
        mask = torch.ones(1, frames, dtype=torch.bool)
        yield {"input_features": torch.randn(1, frames, mel, generator=generator), "input_features_mask": mask}
    if "chunk_sample_lengths" in known:
        length = torch.tensor([frames * getattr(config, "hop_length", 1)])
        yield {"input_features": torch.randn(1, mel, frames, generator=generator), "chunk_sample_lengths": length}
    if "input_values" in known:
        n = 3 * getattr(config, "samples_per_token", 1)
        mask = torch.ones(1, n, dtype=torch.long)
        yield {"input_values": torch.randn(1, n, generator=generator), "input_values_mask": mask}
    if "audio_input_ids" in known:
        ids = torch.randint(0, getattr(config, "mel_vocab_size", 2), (1, 6, mel), generator=generator)
        yield {"audio_input_ids": ids, "audio_input_ids_mask": torch.ones(1, 6, dtype=torch.long)}


def _count(model: Any, sound: dict[str, Tensor]) -> int:
    """How many tokens the model makes of a sound."""
    if fixed := getattr(model.config, "audio_soft_tokens_per_image", None):
        return int(fixed)
    with torch.no_grad():
        out = getattr(model, "model", model).get_audio_features(**sound)
    features = out if isinstance(out, Tensor) else getattr(out, "pooler_output", None)
    features = out.last_hidden_state if features is None else features
    features = torch.cat(list(features)) if isinstance(features, list | tuple) else features
    return int(features.numel() // features.shape[-1])


def _among(inputs: dict[str, Tensor], sound: dict[str, Tensor], token: int, count: int) -> dict[str, Tensor]:
    """A prompt's inputs with so many tokens of a sound before its last words."""
    shape = inputs["input_ids"].shape
    out = dict(inputs)
    for name, value in inputs.items():
        if value.shape[:2] == shape and not name.startswith("pixel"):
            fill = token if name == "input_ids" else int(name == "attention_mask")
            new = torch.full((1, count, *value.shape[2:]), fill, dtype=value.dtype)
            out[name] = torch.cat([value[:, : -len(AFTER)], new, value[:, -len(AFTER) :]], dim=1)
    return out | sound

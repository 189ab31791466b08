"""nnsight's model around a Hugging Face model, wherever its weights lie."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import nnsight
import torch

from lostattn.checkpoint.kinds import is_text_only
from lostattn.checkpoint.no_processor import NoProcessor
from lostattn.weights.offload import device_of, is_described_only, keeps_weights, naming_a_device


class _Brought(nnsight.TransformersModel):
    """Of weights that accelerate brings for each call: inputs go where they are brought to, not to the meta device."""

    @property
    def device(self) -> torch.device:
        return device_of(self._module)


def traced_model(module: Any, processor: Any) -> Any:
    """The model whose traces every pass here runs in."""
    kind = _Brought if any(keeps_weights(one) for one in module.modules()) else nnsight.TransformersModel
    with warnings.catch_warnings(), naming_a_device(module):
        # nnsight serves a submodule called "output" under another name; nothing of ours goes by it.
        warnings.filterwarnings("ignore", message=".*has a submodule named.*")
        return kind(
            module,
            task="text-generation" if is_text_only(module.config) else "image-text-to-text",
            **({"device": "meta"} if is_described_only(module) else {}),
            **_preprocessors(processor),
        )


def _preprocessors(processor: Any) -> dict[str, Any]:
    given = NoProcessor() if processor is None else processor
    # A pipeline of text sets its tokenizer's padding side: it gets a copy, so that the caller's own stays as it is.
    return {"processor": given, "tokenizer": copy.copy(given.tokenizer)}

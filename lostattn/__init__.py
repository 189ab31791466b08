"""Mechanistic interpretability for large vision-language models.

::

    import lostattn as la

    model = la.load("tiny-llava")                      # or a Hugging Face id, a folder, a loaded model
    prompt = model.prompt("How many squares?", images=[image])
    logits, cache = model.run_with_cache(prompt)       # cache["pattern", 3], cache.delta("attn", 3)
    edit = la.ReplaceAttention(la.Gaussian(seed=0)) + la.Ablate("mlp", layers=[5])
    model.generate(prompt, interventions=edit).text
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each export lives; modules are imported when they are first asked for.
_EXPORTS = {
    "LVLM": "lostattn.model",
    "load": "lostattn.model",
    "ActivationCache": "lostattn.cache",
    "Prompt": "lostattn.prompt",
    "TokenMap": "lostattn.prompt",
    "Video": "lostattn.pictures.videos",
    **dict.fromkeys(
        (
            "Ablate",
            "Complexity",
            "Composition",
            "Dirichlet",
            "Fixed",
            "FromCache",
            "Gaussian",
            "Intervention",
            "KnockOut",
            "NoiseUpdate",
            "NoiseWeights",
            "Patch",
            "Released",
            "RemoveRotary",
            "ReplaceAttention",
            "ScaleAttention",
            "Steer",
            "Uniform",
            "VisionPrior",
        ),
        "lostattn.interventions",
    ),
}
_MODULES = (
    "answers",
    "data",
    "experiments",
    "gradients",
    "interventions",
    "lenses",
    "means",
    "metrics",
    "patching",
    "pools",
    "reductions",
    "remote",
    "view",
    "zoo",
)

if TYPE_CHECKING:
    from lostattn import (
        answers,
        data,
        experiments,
        gradients,
        interventions,
        lenses,
        means,
        metrics,
        patching,
        pools,
        reductions,
        remote,
        view,
        zoo,
    )
    from lostattn.cache.activation_cache import ActivationCache
    from lostattn.interventions.ablation import Ablate
    from lostattn.interventions.attention import KnockOut, Released, ReplaceAttention, ScaleAttention
    from lostattn.interventions.noise import NoiseUpdate, NoiseWeights
    from lostattn.interventions.patching import Patch
    from lostattn.interventions.picture_sources import Complexity, VisionPrior
    from lostattn.interventions.rotary import RemoveRotary
    from lostattn.interventions.sources import Dirichlet, Fixed, FromCache, Gaussian, Uniform
    from lostattn.interventions.steering import Steer
    from lostattn.model.load import load
    from lostattn.model.lvlm import LVLM
    from lostattn.pictures.videos import Video
    from lostattn.plan.intervention import Composition, Intervention
    from lostattn.prompt.batch import Prompt
    from lostattn.prompt.token_map import TokenMap

__all__ = [
    "LVLM",
    "Ablate",
    "ActivationCache",
    "Complexity",
    "Composition",
    "Dirichlet",
    "Fixed",
    "FromCache",
    "Gaussian",
    "Intervention",
    "KnockOut",
    "NoiseUpdate",
    "NoiseWeights",
    "Patch",
    "Prompt",
    "Released",
    "RemoveRotary",
    "ReplaceAttention",
    "ScaleAttention",
    "Steer",
    "TokenMap",
    "Uniform",
    "Video",
    "VisionPrior",
    "answers",
    "data",
    "experiments",
    "gradients",
    "interventions",
    "lenses",
    "load",
    "means",
    "metrics",
    "patching",
    "pools",
    "reductions",
    "remote",
    "view",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"lostattn.{name}")
    raise AttributeError(f"module 'lostattn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

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
from typing import Any

__version__ = "0.1.0"

# Where each export lives; modules are imported when they are first asked for. `__init__.pyi` says the same to checkers
# of types and to editors (tests/test_project.py holds the two together).
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

__all__ = sorted((*_EXPORTS, *_MODULES))


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"lostattn.{name}")
    raise AttributeError(f"module 'lostattn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

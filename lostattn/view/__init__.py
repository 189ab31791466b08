"""Pictures of what a model does: attention heads, image overlays, coloured tokens, curves, one-file pages.

matplotlib and circuitsvis are imported when something is drawn. Figures are plain `matplotlib.figure.Figure`
objects; pyplot and its global state are never touched.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Page": "page",
    "accuracy_bars": "curves",
    "attention": "heads",
    "attention_on_image": "image",
    "layer_curves": "curves",
    "overlay": "image",
    "overlays": "image",
    "tokens": "colored_tokens",
}


__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"lostattn.view.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

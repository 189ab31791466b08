"""Pictures of what a model does: attention heads, image overlays, coloured tokens, curves, one-file pages.

matplotlib and circuitsvis are imported when something is drawn. Figures are plain `matplotlib.figure.Figure`
objects; pyplot and its global state are never touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lostattn.view.colored_tokens import tokens
    from lostattn.view.curves import accuracy_bars, layer_curves
    from lostattn.view.heads import attention
    from lostattn.view.image import attention_on_image, overlay, overlays
    from lostattn.view.page import Page

__all__ = ["Page", "accuracy_bars", "attention", "attention_on_image", "layer_curves", "overlay", "overlays", "tokens"]

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


def __getattr__(name: str) -> Any:
    import importlib

    if name in _WHERE:
        return getattr(importlib.import_module(f"lostattn.view.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

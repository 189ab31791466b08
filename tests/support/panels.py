"""What a figure of the package shows, read back from matplotlib."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import PolyCollection


def panels_of(figure) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Of each panel with patches: title, boxes, values."""
    out = []
    for axes in figure.axes:
        for patches in axes.collections:
            if isinstance(patches, PolyCollection) and axes.get_label() != "<colorbar>":
                corners = np.array([path.vertices for path in patches.get_paths()])
                boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
                out.append((axes.get_title(), boxes, np.asarray(patches.get_array())))
    return out

"""The vision encoder's attention in the decoder's token order, from the eager weights of the bare towers."""

from __future__ import annotations

import edit_reference as reference
import torch
from torch import Tensor


def eager_tower(hf, prompt) -> list[Tensor]:
    """The weights of every call of the tower's attention, in order."""
    seen: list[Tensor] = []
    with torch.no_grad(), reference.edited_attention(seen=seen):
        hf(**prompt.inputs)
    return seen


def clip_prior(hf, prompt, layer: int) -> Tensor:
    weights = eager_tower(hf, prompt)[layer]  # [image, head, query, key]
    images, heads, queries, _ = weights.shape
    per_key = weights.double().sum((1, 2)) / (heads * queries)
    return torch.cat([per_key[i, 1:] for i in range(images)]).float()  # key 0 is the class token


def window_cells(rows: int, cols: int, side: int) -> list[list[int]]:
    """The tokens of each window in the picture's order, window by window: what the tower's reordering means."""
    windows = []
    for top in range(0, rows, side):
        for left in range(0, cols, side):
            cells = [
                r * cols + c for r in range(top, min(top + side, rows)) for c in range(left, min(left + side, cols))
            ]
            windows.append(cells)
    return windows


def qwen_prior(hf, prompt, layer: int) -> Tensor:
    config = hf.config.vision_config
    merge = config.spatial_merge_size
    side = config.window_size // merge // config.patch_size
    grids = [(h // merge, w // merge) for _, h, w in prompt.inputs["image_grid_thw"].tolist()]
    windows = [window_cells(r, c, side) for r, c in grids]
    whole = layer in config.fullatt_block_indexes
    # Calls come layer by layer; a layer of full attention makes one a picture, others one a window.
    calls = eager_tower(hf, prompt)
    n_windows = sum(map(len, windows))
    per_layer = [len(grids) if i in config.fullatt_block_indexes else n_windows for i in range(config.depth)]
    start = sum(per_layer[:layer])
    mine = iter(calls[start : start + per_layer[layer]])
    out = []
    for (rows, cols), own in zip(grids, windows, strict=True):
        prior = torch.zeros(rows * cols)
        for cells in [[i for window in own for i in window]] if whole else own:
            weights = next(mine)[0]  # [head, query, key] of one window's patches, four after each other to a token
            patch = weights.mean(0).mean(0)
            for n, cell in enumerate(cells):
                prior[cell] = max(float(patch[4 * n + k]) for k in range(merge**2))
        out.append(prior)
    return torch.cat(out)


PRIORS = {"tiny-llava": clip_prior, "tiny-qwen2_5-vl": qwen_prior}

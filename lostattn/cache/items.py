"""A cache of some items of its batch: every kept tensor cut to them, and to the columns that they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lostattn.errors import InputError
from lostattn.pictures.patch_grid import PatchGrid
from lostattn.points.names import is_square
from lostattn.points.sites import Sites
from lostattn.prompt.batch import Prompt
from lostattn.prompt.rows import per_image


class Cut:
    """Which rows, columns and patches belong to some items of a prompt."""

    def __init__(self, prompt: Prompt, items: Sequence[int]) -> None:
        self.items = list(items)
        used = prompt.token_map.real[self.items].any(0).nonzero().flatten()
        self.columns = slice(int(used[0]), int(used[-1]) + 1)
        self.size = (len(prompt), prompt.n_pos)
        counts = prompt.token_map.n_images
        first = [sum(counts[:i]) for i in range(len(counts))]
        self.images = [first[i] + k for i in self.items for k in range(counts[i])]
        self.n_images = sum(counts)
        # The tower's points are there where it runs once: for the images, or for the videos.
        self.packed = bool({"image_grid_thw", "video_grid_thw"} & prompt.inputs.keys())
        rows = per_image(prompt.inputs, prompt.token_map.grids) if self.packed else {}
        self.patches = rows.get("pixel_values") or rows.get("pixel_values_videos") or []
        grids = [grid for own in prompt.token_map.grids for grid in own]
        self.frames = [g.frames if isinstance(g, PatchGrid) and g.is_video else 1 for g in grids]
        # What leaves the merger: a token of the grid each.
        self.merged = [len(g) if g else 0 for own in prompt.token_map.grids for g in own]

    def decoder(self, value: Tensor) -> Tensor:
        """A tensor ``[batch, pos, …]``, or ``[batch, head, query, key]`` of a pattern."""
        batch, n_pos = self.size
        if value.shape[0] not in (1, batch):
            raise InputError(f"a tensor of shape {tuple(value.shape)} does not go by the {batch} items of its prompt.")
        value = value[self.items] if value.shape[0] == batch else value
        if value.dim() == 4 and value.shape[2:] == (n_pos, n_pos):
            return value[:, :, self.columns, self.columns]
        return value[:, self.columns]

    def mask(self, value: Tensor) -> Tensor:
        """An attention mask ``[batch | 1, head | 1, query, key]``, or ``[batch, key]``."""
        value = value[self.items] if value.shape[0] == self.size[0] else value
        return value[:, self.columns] if value.dim() == 2 else value[:, :, self.columns, self.columns]

    def crossed(self, name: str, value: Tensor) -> Tensor:
        """A tensor of cross-attention: its queries go by position, and its keys, another sequence's, all stay.

        ``[batch, pos, …]``, ``[batch, key, …]`` of keys and values, or ``[batch | 1, head | 1, query | 1, key]``.
        """
        value = value[self.items] if value.shape[0] == self.size[0] else value
        point = name.removesuffix("_grad")
        if point.endswith(("hook_k", "hook_v", "hook_rot_k")):
            return value
        if is_square(point) or point.endswith("geometry"):
            return value[:, :, self.columns] if value.dim() == 4 and value.shape[2] == self.size[1] else value
        return value[:, self.columns]

    def sinks(self, value: Tensor) -> Tensor:
        """Sinks ``[head]``, or ``[batch | 1, head, query, 1]``."""
        if value.dim() != 4:
            return value
        return (value[self.items] if value.shape[0] == self.size[0] else value)[:, :, self.columns]

    def vision(self, name: str, value: Tensor) -> Tensor:
        """A tensor of the tower: a row an image, or the patches of all images end to end."""
        if not self.packed:
            if len(value) != sum(self.frames):
                return value[self.images]
            parts = value.split(self.frames)
            return torch.cat([parts[k] for k in self.images])
        axes = (2, 3) if is_square(name.removesuffix("_grad")) else (int(value.shape[0] == 1),)
        for axis in axes:
            lengths = self.patches if value.shape[axis] == sum(self.patches) else self.merged
            parts = value.split(lengths, axis)
            value = torch.cat([parts[k] for k in self.images], axis)
        return value

    def windows(self, lengths: Tensor) -> Tensor:
        """The lengths of a tower's windows, those of the chosen images; no window reaches over two images."""
        ends = lengths.cumsum(0)
        stops = torch.tensor(self.patches, device=lengths.device).cumsum(0)
        image = torch.searchsorted(stops, ends)
        return torch.cat([lengths[image == k] for k in self.images])


def cut_kept(kept: Mapping[str, Any], cut: Cut, sites: Sites) -> dict[str, Any]:
    """Every tensor that a cache holds, cut."""
    out: dict[str, Any] = {}
    for name, value in kept.items():
        seen = name.startswith("vision")
        if sites.crosses(name):
            tensors = value if isinstance(value, dict) else {"": value}
            parts = {k: cut.crossed(name, v) if isinstance(v, Tensor) else v for k, v in tensors.items()}
            out[name] = parts if isinstance(value, dict) else parts[""]
            continue
        if isinstance(value, dict):
            out[name] = {
                **value,
                **{k: cut.mask(value[k]) for k in ("mask", "bias") if value.get(k) is not None},
                **{k: cut.sinks(value[k]) for k in ("sinks",) if value.get(k) is not None},
                "lengths": None if value["lengths"] is None else cut.windows(value["lengths"]),
            }
        else:
            out[name] = cut.vision(name, value) if seen else cut.decoder(value)
    return out

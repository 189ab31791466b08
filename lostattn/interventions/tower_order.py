"""How a vision tower's attention becomes one number for each image token: what `VisionPrior` hands to its kernel."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lostattn.errors import InputError
from lostattn.pictures.patch_grid import TiledGrid
from lostattn.plan.setting import Setting
from lostattn.tower.proof import disproof
from lostattn.tower.tokens import TowerTokens, places_around, tower_tokens


def tower_order(setting: Setting) -> dict[str, Any]:
    """The places of each image token in the tower, and how the tiles of a picture share what it has.

    Raises:
        InputError: the tower's places cannot be matched with the decoder's image tokens.
    """
    if "tower order" not in setting.memo:
        setting.memo["tower order"] = _worked_out(setting)
    order: dict[str, Any] = setting.memo["tower order"]
    return order


def _worked_out(setting: Setting) -> dict[str, Any]:
    vision = setting.sites.architecture.vision
    assert vision is not None
    lead, behind = places_around(setting.model.get_submodule(vision.path))
    found = tower_tokens(setting.model.config, setting.prompt, lead, behind)
    wrong = found if isinstance(found, str) else disproof(setting.model, vision, setting.prompt, found)
    if isinstance(found, str) or wrong:
        raise InputError(f"VisionPrior cannot match the tower's patches with the decoder's image tokens: {wrong}.")
    group, share = _shares(setting, found)
    return {
        "shape": found.shape,
        "index": found.index.int(),
        "weights": found.weights,
        "queries": found.queries,
        "group": group,
        "share": share,
    }


def _shares(
    setting: Setting, found: TowerTokens
) -> tuple[Int[Tensor, " token"] | None, Float[Tensor, " group"] | None]:
    """Which tokens share out a number, and that number: each sequence's part of its picture's tokens.

    -1 for the tokens of an item whose pictures are all whole: they stay as the tower has them.
    """
    token_map = setting.prompt.token_map
    cut = [token_map.cross is not None or any(isinstance(g, TiledGrid) for g in own) for own in token_map.grids]
    if not any(cut):
        return None, None
    n = found.shape[0]
    _, group = torch.unique(found.image * n + found.sequence, return_inverse=True)
    of_group, of_picture = torch.bincount(group).float(), torch.bincount(found.image).float()
    picture = torch.zeros(len(of_group), dtype=torch.long).index_put((group,), found.image)
    return torch.where(torch.tensor(cut)[found.item], group, -1), of_group / of_picture[picture]

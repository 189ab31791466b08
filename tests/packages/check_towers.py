"""Where image tokens lie in the families with a tower of timm's, proved as in `tests/conformance/test_places.py`.

For the packages that `make conformance` installs: ``python tests/packages`` runs it, and other tests do not.
"""

from __future__ import annotations

import pytest
import torch
from drawn import Drawn, whole
from silenced import silenced

from lostattn.checkpoint.no_processor import NoProcessor
from lostattn.prompt import build_prompt

TOWERS = {
    "fast_vlm": Drawn(((128, 256),), 64, whole(8), ("2 x 4",)),
    "gemma3n": Drawn(((64, 64),), 16, whole(16), ("4 x 4",)),
}


def handed(model, drawn, views):
    """What the decoder is handed of some pictures; its own layers may begin with several streams."""
    inputs = drawn.inputs(model, views)
    kept = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda m, a, k: kept.append(k["inputs_embeds"][0].clone()), with_kwargs=True
    )
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        hook.remove()
    return kept[0], build_prompt(NoProcessor(), model.config, inputs=inputs).token_map


@pytest.mark.parametrize("family", TOWERS)
def test_painting_the_square_of_a_token_changes_it_most(family):
    """No other changes in FastVLM; Gemma 3n adds a stage of half the resolution, so 2 x 2 change together."""
    drawn, model = TOWERS[family], silenced(family)
    generator = torch.Generator().manual_seed(0)
    (side,) = drawn.sides
    picture = torch.randn(3, *side, generator=generator)
    before, token_map = handed(model, drawn, [picture])
    (grid,) = token_map.grids[0]
    assert (str(grid),) == drawn.grids
    for patch in range(len(grid)):
        row, col = divmod(patch, grid.cols)
        view = picture.clone()
        square = view[:, row * drawn.step : (row + 1) * drawn.step, col * drawn.step : (col + 1) * drawn.step]
        square += 3 * torch.randn(square.shape, generator=generator)
        moved = (handed(model, drawn, [view])[0] - before).abs().amax(-1)
        place = token_map.patch_index[0]
        block = (place // grid.cols // 2 == row // 2) & (place % grid.cols // 2 == col // 2) & (place >= 0)
        reached = block if family == "gemma3n" else place == patch
        assert int(place[moved.argmax()]) == patch and torch.equal(moved > 1e-4 * moved.max(), reached), (row, col)

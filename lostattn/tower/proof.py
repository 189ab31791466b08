"""The proof that image tokens are made of the patches that the geometry says: gradients, on the model itself.

What a decoder is handed at an image token must depend on the tower's last stream at the token's own patches and nowhere
else. The tower is run once more for this, the decoder is not; a model is asked once for each layout of pictures.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lostattn.architecture.structure import Vision
from lostattn.prompt.batch import Prompt
from lostattn.tower.tokens import TowerTokens
from lostattn.weights.offload import device_of, is_described_only

_ASKED: WeakKeyDictionary[nn.Module, dict[Any, str]] = WeakKeyDictionary()


class _Reached(Exception):
    """The decoder is about to run: what it is handed is all that was wanted."""


def disproof(model: Any, vision: Vision, prompt: Prompt, found: TowerTokens) -> str:
    """Why the tokens are not made of these patches, or ``""``; also where a model has no weights to ask.

    A model that reads pictures through cross-attention is not asked: layers of its tower that mix all patches stand
    behind the one that is looked at.
    """
    if prompt.token_map.cross is not None or is_described_only(model):
        return ""
    asked = _ASKED.setdefault(model, {})
    merges = {tile.merge for own in prompt.token_map.grids for grid in own for tile in grid.tiles}
    kind = (vision.path, prompt.inputs["pixel_values"].ndim, frozenset(merges), found.weights is not None)
    if kind not in asked:
        asked[kind] = _asked(model, vision, prompt, found)
    return asked[kind]


def _asked(model: Any, vision: Vision, prompt: Prompt, found: TowerTokens) -> str:
    with torch.inference_mode(False), torch.no_grad():
        added, handed = _between(model, vision, prompt)
        if added is None or handed is None:
            return "what its decoder is handed of a picture could not be seen"
        with torch.enable_grad():
            rows = handed[found.mask.to(handed.device)].float()
            # A sum would be the same for any stream behind a norm.
            along = torch.randn(rows.shape[-1], generator=torch.Generator().manual_seed(0)).to(rows.device)
            for token in {0, len(rows) // 2, len(rows) - 1}:
                slope = None
                if rows.requires_grad:
                    (slope,) = torch.autograd.grad(rows[token] @ along, added, retain_graph=True, allow_unused=True)
                seen = set() if slope is None else set(slope.flatten(0, -2).abs().amax(-1).nonzero().flatten().tolist())
                own = set(found.index[token].tolist()) - {-1}
                if not seen:
                    return "what the tower makes of a picture does not come into the embeddings of its image tokens"
                if not seen <= own:
                    return f"image token {token} is made of other patches than its place in the picture says"
    return ""


def _between(model: Any, vision: Vision, prompt: Prompt) -> tuple[Tensor | None, Tensor | None]:
    """A nothing that is added in the last layer of the tower that is read, and what the decoder is handed of it.

    It is added to what the layer's FFN adds: a model that keeps its tower's streams takes them at the layers' ends.
    """
    kept: dict[str, Tensor] = {}
    block = vision.stack.blocks[vision.n_read - 1]

    def leaves(module: nn.Module, args: Any, output: Any) -> Any:
        torch.set_grad_enabled(True)
        stream = output if isinstance(output, Tensor) else output[0]
        kept["added"] = torch.zeros_like(stream, requires_grad=True)
        summed = stream.detach() + kept["added"]
        return summed if isinstance(output, Tensor) else (summed, *output[1:])

    def enters(module: nn.Module, args: Any, keywords: Any) -> None:
        handed = keywords.get("inputs_embeds")
        if handed is not None:
            kept["handed"] = handed
        raise _Reached

    handles = [
        model.get_submodule(block.mlp_out or block.mlp or block.path).register_forward_hook(leaves),
        model.get_decoder().register_forward_pre_hook(enters, with_kwargs=True),
    ]
    given, device = {}, device_of(model)
    for name, value in prompt.inputs.items():
        given[name] = value.to(device, model.dtype if value.is_floating_point() else None)
    try:
        model(**given)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return kept.get("added"), kept.get("handed")

"""From the final stream to the logits: what stands around the unembedding, beside the final norm.

Some families multiply the unembedding's output by a number (Cohere, Granite, HyperCLOVA X), some squeeze it into a
range (Gemma's soft cap), some scale what it is given (T5). The first two are read from the source and the config; a
pass of the bare model then shows whether that is all.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lostattn.architecture.source import source_of

if TYPE_CHECKING:
    from jaxtyping import Float

_SCALED = re.compile(r"([*/])\s*self\.((?:\w+\.)*(?:logit_scale|logits_scaling|output_multiplier))\b")
_CLOSE = 1e-4
LAST_ROWS = 4  # of the sequence: as many as are looked at, since a row of logits is as long as the vocabulary


@dataclass(frozen=True)
class LogitPath:
    """``logits = cap * tanh(scale * unembed(before * normed) / cap)``, or without the cap where it is ``None``.

    ``problem`` says what else stands between the final stream and the logits, so that they cannot be told from it.
    """

    before: float = 1.0
    scale: float = 1.0
    cap: float | None = None
    problem: str = ""

    def finish(self, unembedded: Float[Tensor, "*rest token"]) -> Float[Tensor, "*rest token"]:
        """The logits, from what the unembedding gives."""
        scaled = unembedded * self.scale if self.scale != 1.0 else unembedded
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)


def read_logit_path(model: Any, unembed: str) -> LogitPath:
    """What the source of the module that holds the unembedding, or of the whole model, does with its output."""
    holder = model.get_submodule(unembed.rpartition(".")[0])
    for owner in dict.fromkeys((holder, model)):
        tree = source_of(type(owner).forward)
        source = ast.unparse(tree) if tree is not None else ""
        scaled = _SCALED.search(source)
        config = owner.config.get_text_config(decoder=True) if hasattr(owner, "config") else None
        cap = getattr(config, "final_logit_softcapping", None)
        capped = cap if "softcap" in source else None
        if scaled is None and capped is None:
            continue
        number = _attribute(owner, scaled[2].split(".")) if scaled is not None else 1.0
        scale = 1.0 / number if scaled is not None and scaled[1] == "/" else number
        return LogitPath(scale=scale, cap=float(capped) if capped else None)
    return LogitPath()


def _attribute(owner: Any, names: list[str]) -> float:
    for name in names:
        owner = getattr(owner, name)
    return 1.0 if owner is None else float(owner)  # a config may leave it out


def seen_logit_path(
    path: LogitPath, normed: Tensor | None, given: Tensor | None, unembedded: Tensor | None, logits: Tensor | None
) -> LogitPath:
    """The path as a pass bears it out; with a ``problem`` where something else shows.

    Args:
        path: as it was read.
        normed: what the final norm gives; the final stream where there is no norm.
        given, unembedded: what the unembedding is given and what it gives.
        logits: the model's logits.
    """
    if normed is None or given is None or unembedded is None or logits is None:
        return path
    normed, given, unembedded, logits = (x[..., -LAST_ROWS:, :] for x in (normed, given, unembedded, logits))
    if normed.shape != given.shape:
        shapes = f"the final stream is {list(normed.shape)}, the unembedding reads {list(given.shape)}"
        return replace(path, problem=shapes)
    before = float((given * normed).double().sum() / (normed * normed).double().sum().clamp_min(1e-30))
    if _gap(given, before * normed) > _CLOSE:
        return replace(path, problem="the unembedding reads something else than the normed final stream")
    before = 1.0 if abs(before - 1.0) < _CLOSE else before
    found = path.finish(unembedded)[..., : logits.shape[-1]]
    allowed = logits > torch.finfo(logits.dtype).min  # tokens that the model rules out
    if found.shape != logits.shape or _gap(found[allowed], logits[allowed]) > _CLOSE:
        return replace(path, before=before, problem="the logits are something else than what the unembedding gives")
    return replace(path, before=before)


def _gap(found: Tensor, expected: Tensor) -> float:
    """The relative distance; of a coarse dtype, less what each of its steps may round."""
    gap = float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))
    eps = torch.finfo(expected.dtype).eps
    return gap if eps < 1e-6 else max(0.0, gap - 8 * eps)

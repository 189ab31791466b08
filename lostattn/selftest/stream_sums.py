"""What the stream gains, held to what the modules give: by the values that plain hooks saw in a pass."""

from __future__ import annotations

import torch

from lostattn.architecture.structure import Block, Stack, Update
from lostattn.points.stream_updates import INSIDE, added_by
from lostattn.selftest.bare_pass import Seen
from lostattn.selftest.report import Findings, relative_gap

SUMS = ("plain", "post-norm", "scaled", "parallel")  # layers that are the sum of their updates


def watched_modules(stack: Stack) -> set[str]:
    """The layers of a stack, and the modules whose outputs are added to the stream."""
    updates = [u.path for b in stack.blocks for u in (added_by(b, kind) for kind in INSIDE) if u is not None]
    mids = [mid for b in stack.blocks for mid in (b.mid, b.cross and b.cross.mid) if mid]
    return {*updates, *(b.path for b in stack.blocks), *mids}


def check_sums(findings: Findings, stack: Stack, n: int, seen: Seen, real: torch.Tensor, eps: float) -> None:
    """Hold the stream's gains in the first ``n`` layers of a stack to the modules' outputs.

    ``real [batch, pos]`` says which positions are no padding, where the stream has that layout.
    """
    allowed = max(1e-5, 8 * eps)

    def compare(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
        where = real.to(found.device) if found.shape[:2] == real.shape else slice(None)
        findings.error(name, relative_gap(found[where], expected[where]), allowed)

    for i, block in enumerate(stack.blocks[:n]):
        pre, post = seen.tensors.get((block.path, "input")), seen.tensors.get((block.path, "output"))
        attn, cross, mlp = (added_by(block, kind) for kind in INSIDE)
        if pre is None or post is None or pre.shape != post.shape or not _numbers(attn, cross, mlp):
            continue
        at = f"{stack.prefix}.{i}"
        beside = cross is not None
        between = "Δcross_attn + " if block.cross is not None and not block.cross.ahead else ""
        if block.kind in SUMS:
            whole = pre + _added(seen, block, attn, cross, mlp)
            compare(f"{at}: resid_pre + Δattn + {between}Δmlp = resid_post", whole, post)
        if block.mid is not None and attn is not None:
            mid = seen.tensors[block.mid, "input"].reshape(pre.shape)
            compare(f"{at}: resid_pre + Δattn = resid_mid", pre + _added(seen, block, attn), mid)
        if block.cross is not None and block.cross.mid is not None and beside and block.mid is not None:
            normed = block.cross.added_to.endswith("hook_out")
            before = seen.tensors[block.mid, "output" if normed else "input"]
            crossed = seen.tensors[block.cross.mid, "input"]
            compare(f"{at}: the stream + Δcross_attn = resid_mid_cross", before + _added(seen, block, cross), crossed)


def _numbers(*updates: Update | None) -> bool:
    """Whether every update of a layer is added times a number, and there is one."""
    factors = [update.factor for update in updates if update is not None]
    return bool(factors) and None not in factors


def _added(seen: Seen, block: Block, *updates: Update | None) -> torch.Tensor | float:
    parts = [seen.tensors[u.path, "output"] * (u.factor or 0.0) for u in updates if u is not None]
    return sum(part.reshape(seen.shapes[block.path, "input"]) for part in parts)

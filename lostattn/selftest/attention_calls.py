"""Every call of the attention interface: recomputed at its place, and what the heads and the output map make of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lostattn.architecture.structure import Attention, Stack
from lostattn.kernels.attention import mixed_values
from lostattn.kernels.program import Positions, Program
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.prompt.picture_inputs import has_picture
from lostattn.selftest.report import Findings, relative_gap

TOWER_ROWS = 64


def stacks(model: HookedModel, prompt: Prompt) -> list[tuple[Stack, int]]:
    """The decoder and, of a prompt with a picture, the vision tower; and how many layers the logits depend on."""
    vision = model.architecture.vision
    found = [(model.architecture.stack, model.cfg.n_layers)]
    if vision is not None and has_picture(prompt):
        found.append((vision.stack, vision.n_read))
    return found


def attentions(model: HookedModel, stack: Stack, n: int) -> dict[str, Attention]:
    """Every attention of a stack's first layers whose pattern is known, by what its hook names begin with."""
    found = {
        f"{stack.prefix}.{i}.{name}": attn
        for i, block in enumerate(stack.blocks[:n])
        for name, attn in block.attentions.items()
    }
    return {at: attn for at, attn in found.items() if f"{at}.hook_pattern" in model.sites.derived}


def rows_of(at: str) -> int:
    """How many query rows the proof looks at: of a tower, with its thousands of patches, the first."""
    return TOWER_ROWS if at.startswith("vision_encoder") else 2**31


def queries_of(at: str) -> Positions | None:
    """The same as the queries of an edit."""
    return (torch.ones(1, TOWER_ROWS, dtype=torch.bool), False) if at.startswith("vision_encoder") else None


def read_points(at: str, attn: Attention) -> tuple[str, ...]:
    """What the untouched pass reads of an attention.

    Of a tower, what is recomputed at the call stands for the pattern, unless there is a call a window.
    """
    return ("rot_q", "z") if at.startswith("vision_encoder") and not attn.windows else ("pattern", "v", "z")


def with_proofs(model: HookedModel, program: Program) -> Program:
    """A program that also recomputes each attention call that it comes by, under what the hook names begin with."""
    slots = [slot for slot in model.sites.slots if slot.kind == "attention"]
    names = {slot.served: next(iter(slot.views)).rpartition(".")[0] for slot in slots}
    proofs = {path: (name, rows_of(name)) for path, name in names.items()}
    return [{**e, "proof": proofs[e["path"]]} if e["kind"] == "attention" else e for e in program]


def plain_heads(model: HookedModel, at: str, attn: Attention) -> bool:
    """Whether nothing stands between values, heads and output map, so that z is the pattern times v."""
    has = all(f"{at}.hook_{p}" in model.sites.names for p in ("pattern", "v", "z"))
    return has and attn.z_is_kernels and (attn.v_is_values or attn.qkv is not None)


def kernel_error(model: HookedModel) -> float:
    """How far a kernel may be from what is recomputed in single precision."""
    return max(1e-4, 8 * torch.finfo(model.cfg.dtype).eps)


def check_attention(
    model: HookedModel,
    findings: Findings,
    at: str,
    attn: Attention,
    kept: Mapping[str, Any],
    proof: Mapping[str, Tensor] | None,
    real: Tensor,
) -> None:
    """One attention of a pass: its kernel's output, the sums of its pattern's rows, and its heads.

    Args:
        model: the model.
        findings: where the checks go.
        at: what its hook names begin with.
        attn: where it is.
        kept: its points in this pass; without the pattern, what was recomputed at the call stands for it.
        proof: what was recomputed at the call; ``None`` where it is called once a window.
        real: ``[batch, pos]``, which positions of the decoder are no padding.
    """
    place = at.removesuffix(".attn")
    if proof is not None:
        rows, gap = float(proof["rows"]), float(proof["gap"])
        findings.error(f"{place}: pattern @ v = what the kernel gave", gap, kernel_error(model))
    else:
        rows = float((kept[f"{at}.hook_pattern"].sum(-1) - 1).abs().max())
    findings.error(f"rows of {at}.hook_pattern sum to one", rows, 1e-5)
    if not plain_heads(model, at, attn):
        return
    if f"{at}.hook_pattern" in kept or proof is None:
        mixed = mixed_values(kept[f"{at}.hook_pattern"], _as_batch(kept[f"{at}.hook_v"]).transpose(1, 2))
    else:
        mixed = proof["mixed"]
    z = _as_batch(kept[f"{at}.hook_z"])[:, : mixed.shape[1]]
    chosen = real[:, : mixed.shape[1]].to(z.device) if at.startswith("blocks.") else slice(None)
    gap = relative_gap(mixed[chosen], z[chosen]) if mixed.shape == z.shape else float("inf")
    findings.error(f"{place}: pattern @ v = z", gap, kernel_error(model))


def check_output_map(
    model: HookedModel, findings: Findings, at: str, attn: Attention, z: Tensor | None, given: Tensor | None, path: str
) -> None:
    """What attention gives, at the module ``path``, is its output map of z, where nothing stands between the two."""
    if z is None or given is None or attn.o is None or not attn.gives_o or path not in (attn.path, attn.o):
        return
    with torch.no_grad():
        written = model.hf.get_submodule(attn.o)(z.flatten(-2))
    name = f"{at.removesuffix('.attn')}: the output map of z = what attention gives"
    findings.error(name, relative_gap(written.reshape(given.shape), given), kernel_error(model))


def _as_batch(x: Tensor) -> Tensor:
    """``[batch, pos, head, d_head]``, of a tower too that packs all its pictures into one sequence."""
    return x if x.dim() == 4 else x[None]

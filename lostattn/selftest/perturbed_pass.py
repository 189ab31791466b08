"""One pass in which every layer of a stack is perturbed, each on the stream that the untouched model brings there.

In each layer the pattern is moved on by one key and every update is turned into another (1 - x). Before the next layer
begins the stream is put back to what it was, so what is seen there is the doing of that one layer: a layer that does
not use its pattern, or an edit that is lost, is known by its place. One pass so proves a stack of any depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lostattn.architecture.structure import Attention, Stack
from lostattn.errors import InputError
from lostattn.kernels.proof import put_back, rotated_rows, turned_update
from lostattn.plan.program import Edit
from lostattn.points.hooked_model import HookedModel
from lostattn.points.stream_updates import added_by
from lostattn.prompt.batch import Prompt
from lostattn.run.calls import Raw, Reading
from lostattn.run.local import run_here, running
from lostattn.run.make_calls import pass_call
from lostattn.selftest.attention_calls import (
    attentions,
    check_attention,
    check_output_map,
    queries_of,
    stacks,
    with_proofs,
)
from lostattn.selftest.bare_pass import Seen, watching
from lostattn.selftest.report import Findings, largest_difference, relative_gap
from lostattn.selftest.stream_sums import check_sums

UPDATES = ("attn_out", "mlp_out")


@dataclass(frozen=True)
class Round:
    """What is perturbed in one pass: attentions of a stack's first ``n`` layers, and perhaps every update there."""

    stack: Stack
    n: int
    attentions: Mapping[str, Attention]  # by what their hook names begin with: "blocks.0.attn"
    updates: bool


def rounds(model: HookedModel, prompt: Prompt) -> Iterator[Round]:
    """Up to three passes: the decoder's own attention, that to another sequence beside it, and the vision tower.

    A layer before which the stream cannot be put back is perturbed in a pass of its own.
    """
    for stack, n in stacks(model, prompt):
        known = attentions(model, stack, n)
        alone = {at for at in known if _layer(at) and not _put_back_at(model, stack, _layer(at))}
        beside = {at: attn for at, attn in known.items() if at.endswith(".cross_attn") and at not in alone}
        own = {at: attn for at, attn in known.items() if at not in alone and at not in beside}
        yield Round(stack, n, own, True)
        if beside:
            yield Round(stack, n, beside, False)
        for at in sorted(alone):
            yield Round(stack, n, {at: known[at]}, False)


def perturb(model: HookedModel, prompt: Prompt, this: Round, bare: Seen, findings: Findings) -> None:
    """Run one round and hold what came of it to what must come of it."""
    turned: dict[str, Tensor] = {}
    updates = [name for name in _updates(this) if _editable(model, name)]
    entries = {i: (block.path, "input") for i, block in enumerate(this.stack.blocks[: this.n]) if i}
    entries = {i: at for i, at in entries.items() if _put_back_at(model, this.stack, i) and at in bare.tensors}
    edits = [Edit(f"{at}.hook_pattern", rotated_rows, queries=queries_of(at)) for at in this.attentions]
    edits += [Edit(name, turned_update, {"into": turned, "name": name}) for name in updates]
    for i, entry in entries.items():
        known = {"known": bare.tensors[entry]}
        edits.append(Edit(f"{this.stack.prefix}.{i}.hook_resid_pre", put_back, known))
    seen, raw = _run(model, prompt, this, updates, edits, bare.kept)
    real, eps = prompt.token_map["all"], torch.finfo(model.cfg.dtype).eps
    moved = {i: largest_difference(seen.tensors[entry], bare.tensors[entry]) for i, entry in entries.items()}
    last = largest_difference(raw["logits"], bare.logits)
    kept = raw["kept"]
    for at, attn in this.attentions.items():
        out = _out_name(at)
        path = _path(model, out) if out in turned else ""
        before = bare.tensors.get((path, "output"))
        changed = float("inf") if before is None else largest_difference(turned[out], before)
        reached = min(changed, moved.get(_reader(this, at, moved), last))
        findings.change(f"a perturbed {at}.hook_pattern moves the logits", reached)
        check_attention(model, findings, at, attn, kept, kept.get(at), real)
        check_output_map(model, findings, at, attn, kept.get(f"{at}.hook_z"), turned.get(out), path)
    for name in updates:
        gap = _lost(model, this, name, kept[name], seen)
        findings.error(f"what is written to {name} is what the layer goes on with", gap, max(1e-5, 8 * eps))
    if this.updates:
        for entry in entries.values():  # hooks see what a module is given before it is put back
            seen.tensors[entry] = bare.tensors[entry]
        check_sums(findings, this.stack, this.n, seen, real, eps)


def _lost(model: HookedModel, this: Round, name: str, written: Tensor, seen: Seen) -> float:
    """How far what was written to an update is from what plain hooks see where it is added, or put through a norm."""
    layer, kind = int(name.split(".")[-2]), name.rpartition("hook_")[2].removesuffix("_out")
    block, path = this.stack.blocks[layer], _path(model, name)
    update = added_by(block, kind)
    place, times = (path, "output"), 1.0
    if update is not None and (update.source == path or (update.source == block.mlp and path == block.mlp_out)):
        normed = update.source != update.path
        place, times = (update.path, "input" if normed else "output"), update.inner if normed else 1.0
    given = seen.tensors.get(place)
    if given is None or given.numel() != written.numel():
        return float("inf")
    return relative_gap(written * times, given.reshape(written.shape))


def _run(
    model: HookedModel, prompt: Prompt, this: Round, updates: list[str], edits: list[Edit], watched: set[str]
) -> tuple[Seen, Raw]:
    """The pass of a round: what plain hooks see, and what the walker keeps."""
    names = list(updates)
    for at, attn in this.attentions.items():
        # A pattern of all queries and keys a layer is too much to keep; of calls it is recomputed where it is used.
        points = ("pattern", "v", "z") if attn.windows else ("z",)
        names += [name for name in (f"{at}.hook_{p}" for p in points) if name in model.sites.names]
    call = pass_call(model, prompt, Reading("cache", tuple(names)), names, edits)
    call = replace(call, program=with_proofs(model, call.program))
    with watching(model.hf, watched) as seen, running(model):
        return seen, run_here(model.nn, call.plain())


def _updates(this: Round) -> list[str]:
    """The points of the updates that are turned: all, or those of the attentions that are perturbed."""
    if not this.updates:
        return [_out_name(at) for at in this.attentions]
    return [f"{this.stack.prefix}.{i}.hook_{update}" for i in range(this.n) for update in UPDATES]


def _editable(model: HookedModel, name: str) -> bool:
    try:
        model.sites.editable(name)
    except InputError:
        return False
    return True


def _put_back_at(model: HookedModel, stack: Stack, layer: int) -> bool:
    return _editable(model, f"{stack.prefix}.{layer}.hook_resid_pre")


def _path(model: HookedModel, name: str) -> str:
    """The module that gives what a point holds."""
    return model.sites.slots[model.sites.at[name]].path


def _layer(at: str) -> int:
    """The layer of an attention, by what its hook names begin with."""
    return int(at.split(".")[-2])


def _reader(this: Round, at: str, moved: Mapping[int, float]) -> int:
    """The layer that is given the stream with what an attention adds: the next, or its own where it comes before it."""
    layer = _layer(at)
    cross = this.stack.blocks[layer].cross
    ahead = at.endswith(".cross_attn") and cross is not None and cross.ahead
    return layer if ahead and layer in moved else layer + 1


def _out_name(at: str) -> str:
    """The point of what an attention adds: ``blocks.0.hook_cross_attn_out`` of ``blocks.0.cross_attn``."""
    block, _, which = at.rpartition(".")
    return f"{block}.hook_{which}_out"

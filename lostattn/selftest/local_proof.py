"""The proof at load: on a small picture, every kind of hook point does what it says on this very model.

- the untouched pass through the walker gives the bare model's logits, bit for bit;
- the identity edit at every point that can be edited changes nothing, bit for bit;
- a perturbed pattern moves the logits, in every layer of the decoder and in every vision layer that is read;
- the attention kernel's output is recomputed from what it was given, and pattern rows sum to one;
- what attention and FFN (and cross-attention between them) add to the stream, by the modules' own outputs, is what the
  stream gains: with plain hooks;
- what heads and neurons write by the weights of their output maps adds up to what those gave, and the unembedding of
  the last state is what the model made of it. A layer of which this does not hold loses the points made by its weights.

A first pass of the bare model is watched with plain hooks: points that it does not bear out are taken away
(:mod:`lostattn.selftest.bare_pass`), so that they are absent rather than wrong.

Of a prompt without a picture only the decoder is looked at.
"""

from __future__ import annotations

import torch
from PIL import Image

from lostattn.architecture.structure import Attention, Block, Update
from lostattn.checkpoint.kinds import is_text_only
from lostattn.errors import InputError, UnsupportedModel
from lostattn.kernels.attention import mixed_values
from lostattn.kernels.program import Program
from lostattn.kernels.proof import rotated_rows, unchanged_rows, unchanged_value
from lostattn.plan.program import Edit
from lostattn.points.hooked_model import HookedModel
from lostattn.points.names import is_square
from lostattn.points.reach import reached_points
from lostattn.points.stream_updates import INSIDE, added_by
from lostattn.prompt.assemble import placeholder
from lostattn.prompt.batch import Prompt
from lostattn.prompt.picture_inputs import has_picture
from lostattn.prompt.rendering import has_template
from lostattn.run.calls import Call, Reading
from lostattn.run.local import check_weights, run_edits, run_here, running
from lostattn.run.make_calls import cache_call, hooks_call
from lostattn.run.reading import read
from lostattn.selftest.bare_pass import Seen, settle, watch
from lostattn.selftest.output_maps import check_maps, watched_maps
from lostattn.selftest.report import Check, Report


def sample_picture() -> Image.Image:
    """A small picture of colour gradients: no two patches alike."""
    image = Image.new("RGB", (64, 64))
    image.putdata([((x * 4) % 256, (y * 4) % 256, (x * y) % 256) for y in range(64) for x in range(64)])
    return image


def sample_prompt(model: HookedModel) -> Prompt:
    """What the proof is run on: a small picture and two words, or words alone where the model takes no pictures."""
    if is_text_only(model.hf.config):
        return model.prompt("What is this?")
    # Without a chat template (PaliGemma) the text itself says where the picture stands.
    mark = "" if has_template(model.processor) else placeholder(model.processor, model.hf.config)
    return model.prompt(f"{mark}What is this?", images=[sample_picture()])


def selftest(model: HookedModel, prompt: Prompt | None = None) -> Report:
    """Run the proof on a prompt (default: a small picture and two words).

    Raises:
        UnsupportedModel: a check failed; the message names each.
        InputError: the model has no processor to make a prompt with, and none was given.
    """
    check_weights(model)
    if prompt is None:
        if model.processor is None:
            raise InputError("the self-test needs a prompt: model.selftest(model.prompt(inputs=…)).")
        prompt = sample_prompt(model)
    seen = watch(model.hf, model._inputs(prompt), _watched(model), model.architecture.unembed)
    if model.architecture.vision is None or has_picture(prompt):  # else the tower's points would seem never to run
        model.sites = settle(model.sites, seen)
    maps, reasons = check_maps(model, seen)
    model.sites = model.sites.without_maps(reasons)
    checks = [*_identities(model, prompt, seen.logits), *_patterns(model, prompt)]
    checks += [*_kernels(model, prompt), *_heads(model, prompt), *_updates(model, prompt, seen)]
    lacks = tuple(f"{path} is not a linear map: {reason}" for path, reason in reasons.items())
    report = Report(model.name, (*checks, *maps), lacks)
    if not report.passed:
        raise UnsupportedModel(f"{report!r}\nThis model would be edited in vain; load with selftest=False to look on.")
    return report


def _watched(model: HookedModel) -> set[str]:
    """The modules whose outputs are added to the stream, and the layers."""
    blocks, norm = model.architecture.stack.blocks, model.architecture.final_norm
    updates = [u.path for b in blocks for u in (added_by(b, kind) for kind in INSIDE) if u is not None]
    mids = [mid for b in blocks for mid in (b.mid, b.cross and b.cross.mid) if mid]
    return {*updates, *(b.path for b in blocks), *mids, *([norm] if norm else []), *watched_maps(model)}


def identity_edits(model: HookedModel, prompt: Prompt) -> list[Edit]:
    """The identity at every editable point that a pass over the prompt comes to."""
    edits = []
    for name in reached_points(prompt, model.hook_names):
        try:
            model.sites.editable(name)
        except InputError:
            continue
        rows = is_square(name)
        edits.append(Edit(name, unchanged_rows if rows else unchanged_value))
    return edits


def _identities(model: HookedModel, prompt: Prompt, bare: torch.Tensor) -> list[Check]:
    """The bare model against the walker, and one pass with the identity at every editable point at once."""
    untouched = _logits(model, prompt)
    edits = identity_edits(model, prompt)
    same = run_edits(model, prompt, (), edits)[0]
    return [
        Check("the untouched pass is the bare model's", _worst(untouched, bare), torch.equal(untouched, bare)),
        Check(f"identity at {len(edits)} points", _worst(same, bare), torch.equal(same, bare)),
    ]


def _logits(model: HookedModel, prompt: Prompt) -> torch.Tensor:
    """The logits of the untouched model, through the walker."""
    with running(model):
        found: torch.Tensor = run_here(model.nn, hooks_call(model, prompt).plain())["logits"]
    return found


def places(model: HookedModel, prompt: Prompt) -> list[str]:
    """Every layer that the logits depend on: ``blocks.0`` and so on, and those of the vision tower that are read."""
    vision = model.architecture.vision
    places = [f"blocks.{i}" for i in range(model.cfg.n_layers)]
    if vision is not None and has_picture(prompt):
        places += [f"{vision.stack.prefix}.{i}" for i in range(vision.n_read)]
    return places


def _boundaries(model: HookedModel, prompt: Prompt) -> dict[str, Attention]:
    """Every attention that the logits depend on, by what its hook names begin with: ``blocks.0.attn`` and so on."""
    return {
        f"{place}.{name}": attn
        for place in places(model, prompt)
        for name, attn in _block(model, place).attentions.items()
    }


def _patterns(model: HookedModel, prompt: Prompt) -> list[Check]:
    bare = _logits(model, prompt)
    checks = []
    for boundary in _boundaries(model, prompt):
        if f"{boundary}.hook_pattern" not in model.sites.derived:
            continue
        moved = run_edits(model, prompt, (), [Edit(f"{boundary}.hook_pattern", rotated_rows)])[0]
        change = _worst(moved, bare)
        checks.append(Check(f"a perturbed {boundary}.hook_pattern moves the logits", change, change > 0))
    return checks


def _kernels(model: HookedModel, prompt: Prompt) -> list[Check]:
    """Every call of the attention interface recomputed from what it was given."""
    places = _boundaries(model, prompt)
    program: Program = []
    for slot in model.sites.slots:
        name = next(iter(slot.views), "").removesuffix(".hook_rot_q")
        if slot.kind == "attention" and name in places:
            operation = model.operations[slot.path]
            program.append({"kind": "proof", "path": slot.served, "operation": operation, "name": name, "once": True})
    with running(model):
        raw = run_here(model.nn, Call(model._inputs(prompt), program, Reading("cache"), prompt=prompt).plain())
    eps = torch.finfo(model.cfg.dtype).eps
    checks = []
    for place, found in raw["kept"].items():
        gap, rows = float(found["gap"]), float(found["rows"])
        at = place.removesuffix(".attn")
        checks.append(Check(f"rows of {place}.hook_pattern sum to one", rows, rows < 1e-5))
        checks.append(Check(f"{at}: pattern @ v = what the kernel gave", gap, gap < max(1e-4, 8 * eps)))
    return checks


def _heads(model: HookedModel, prompt: Prompt) -> list[Check]:
    """Where nothing stands between values, heads and output projection: the cached pattern times v is z."""
    inside = ("hook_pattern", "hook_v", "hook_z")
    plain = []
    for place, attn in _boundaries(model, prompt).items():
        has = all(f"{place}.{p}" in model.sites.names for p in inside)
        if has and attn.z_is_kernels and (attn.v_is_values or attn.qkv is not None):
            plain.append(place)
    call = cache_call(model, prompt, [f"{place}.{p}" for place in plain for p in inside])
    with running(model):
        raw = run_here(model.nn, call.plain())
    _, cache = read(call.reading, model, raw, prompt)
    eps = torch.finfo(model.cfg.dtype).eps
    checks = []
    for place in plain:
        pattern, v, z = (cache[f"{place}.{p}"] for p in inside)
        v, z = (x if x.dim() == 4 else x[None] for x in (v, z))  # a tower may pack all its pictures into one
        real = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        if place.startswith("blocks."):
            real = prompt.token_map["all"].to(z.device)
        mixed = mixed_values(pattern, v.transpose(1, 2))
        gap = _relative(mixed[real], z[real]) if mixed.shape == z.shape else float("inf")
        checks.append(Check(f"{place.removesuffix('.attn')}: pattern @ v = z", gap, gap < max(1e-4, 8 * eps)))
    return checks


def _updates(model: HookedModel, prompt: Prompt, seen: Seen) -> list[Check]:
    """The stream's gains against the modules' outputs, as plain hooks saw them on the bare model."""
    eps = torch.finfo(model.cfg.dtype).eps
    real = prompt.token_map["all"]
    checks = []

    def added(block: Block, *updates: Update | None) -> torch.Tensor | float:
        parts = [seen.tensors[u.path, "output"] * (u.factor or 0.0) for u in updates if u is not None]
        return sum(part.reshape(seen.shapes[block.path, "input"]) for part in parts)

    def compare(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
        where = real.to(found.device) if found.shape[:2] == real.shape else slice(None)
        gap = _relative(found[where], expected[where])
        checks.append(Check(name, gap, gap < max(1e-5, 8 * eps)))

    for i, block in enumerate(model.architecture.stack.blocks):
        attn, cross, mlp = (added_by(block, kind) for kind in INSIDE)
        pre, post = seen.tensors.get((block.path, "input")), seen.tensors.get((block.path, "output"))
        numbers = [u.factor is not None for u in (attn, cross, mlp) if u is not None]
        if pre is None or post is None or not numbers or not all(numbers) or pre.shape != post.shape:
            continue
        between = "" if block.cross is None or block.cross.ahead else "Δcross_attn + "
        if block.kind in ("plain", "post-norm", "scaled", "parallel"):
            whole = pre + added(block, attn, cross, mlp)
            compare(f"blocks.{i}: resid_pre + Δattn + {between}Δmlp = resid_post", whole, post)
        if block.mid is not None and attn is not None:
            mid = seen.tensors[block.mid, "input"].reshape(pre.shape)
            compare(f"blocks.{i}: resid_pre + Δattn = resid_mid", pre + added(block, attn), mid)
        if block.cross is not None and block.cross.mid is not None and cross is not None and block.mid is not None:
            normed = block.cross.added_to.endswith("hook_out")
            before = seen.tensors[block.mid, "output" if normed else "input"]
            crossed = seen.tensors[block.cross.mid, "input"]
            compare(f"blocks.{i}: the stream + Δcross_attn = resid_mid_cross", before + added(block, cross), crossed)
    return checks


def _block(model: HookedModel, place: str) -> Block:
    vision = model.architecture.vision
    stack = model.architecture.stack if place.startswith("blocks.") or vision is None else vision.stack
    return stack.blocks[int(place.rpartition(".")[2])]


def _worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-30))

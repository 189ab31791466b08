"""The proof at load: on a small picture, every kind of hook point does what it says on this very model.

- the untouched pass through the walker, which reads every attention, gives the bare model's logits, bit for bit;
- the identity edit at every point that can be edited changes nothing, bit for bit;
- in every layer of the decoder, and every vision layer that is read, the attention kernel's output is recomputed from
  what it was given, pattern rows sum to one, and what attention and FFN add (by the modules' own outputs, as plain
  hooks see them) is what the stream gains;
- in each of these layers, after its pattern is perturbed, the kernel gives that pattern times the values, the layer's
  update is the output map of that, and the stream that the next layer is given, or the logits, are others; other
  updates, written to their points, are what the stream gains (:mod:`lostattn.selftest.perturbed_pass`);
- what heads and neurons write by the weights of their output maps adds up to what those gave, and the unembedding of
  the last state is what the model made of it. A layer of which this does not hold loses the points made by its weights.

A first pass of the bare model is watched with plain hooks: points that it does not bear out are taken away
(:mod:`lostattn.selftest.bare_pass`), so that they are absent rather than wrong. There are as many passes for two layers
as for eighty.

Of a prompt without a picture only the decoder is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from lostattn.errors import InputError, UnsupportedModel
from lostattn.kernels.proof import unchanged_rows, unchanged_value
from lostattn.plan.program import Edit
from lostattn.points.hooked_model import HookedModel
from lostattn.points.names import is_square
from lostattn.points.reach import reached_points
from lostattn.prompt.batch import Prompt
from lostattn.prompt.picture_inputs import has_picture
from lostattn.run.local import check_weights, run_edits, run_here, running
from lostattn.run.make_calls import cache_call
from lostattn.run.reading import read
from lostattn.selftest.attention_calls import (
    attentions,
    check_attention,
    queries_of,
    read_points,
    stacks,
    with_proofs,
)
from lostattn.selftest.bare_pass import Seen, settle, watch
from lostattn.selftest.output_maps import check_maps, watched_maps
from lostattn.selftest.perturbed_pass import perturb, rounds
from lostattn.selftest.report import Findings, Report
from lostattn.selftest.sample import sample_prompts
from lostattn.selftest.stream_sums import check_sums, watched_modules


def selftest(model: HookedModel, prompt: Prompt | None = None) -> Report:
    """Run the proof on a prompt (default: two words and a picture, as small as the processor can make it).

    It takes as many passes for two layers as for eighty: at the most six, and four where there is no picture.

    Raises:
        UnsupportedModel: a check failed; the message names each.
        InputError: the model has no processor to make a prompt with, and none was given.
    """
    check_weights(model)
    if prompt is None:
        if model.processor is None:
            raise InputError("the self-test needs a prompt: model.selftest(model.prompt(inputs=…)).")
    prompt, bare = _bare(model, sample_prompts(model) if prompt is None else iter([prompt]))
    if model.architecture.vision is None or has_picture(prompt):  # else the tower's points would seem never to run
        model.sites = settle(model.sites, bare)
    maps, reasons = check_maps(model, bare)
    model.sites = model.sites.without_maps(reasons)
    findings = Findings()
    _compare_passes(model, prompt, bare.logits, findings)
    for one in rounds(model, prompt):
        perturb(model, prompt, one, bare, findings)
    for stack, n in stacks(model, prompt):
        eps = torch.finfo(model.cfg.dtype).eps
        check_sums(findings, stack, n, bare, prompt.token_map["all"], eps)
    lacks = tuple(f"{path} is not a linear map: {reason}" for path, reason in reasons.items())
    report = Report(model.name, (*findings.checks.values(), *maps), lacks)
    if not report.passed:
        raise UnsupportedModel(f"{report!r}\nThis model would be edited in vain; load with selftest=False to look on.")
    return report


def _bare(model: HookedModel, prompts: Iterator[Prompt]) -> tuple[Prompt, Seen]:
    """The first of some prompts that the bare model can read, and what plain hooks saw in its pass."""
    prompt, following = next(prompts), None
    try:
        return prompt, watch(model.hf, model._inputs(prompt), _watched(model), model.architecture.unembed)
    except Exception:
        following = next(prompts, None)
        if following is None:
            raise
    return _bare(model, iter([following]))


def _watched(model: HookedModel) -> set[str]:
    """The modules whose outputs are added to the stream, the layers, and what is compared with the perturbed passes."""
    sites = model.sites
    norm = model.architecture.final_norm
    vision = model.architecture.vision
    both = [model.architecture.stack, *([vision.stack] if vision is not None else [])]
    outs = {slot.path for slot in sites.slots if any(name.endswith(("attn_out", "mlp_out")) for name in slot.views)}
    return set().union(*map(watched_modules, both), outs, watched_maps(model), [norm] if norm else [])


def identity_edits(model: HookedModel, prompt: Prompt) -> list[Edit]:
    """The identity at every editable point that a pass over the prompt comes to."""
    edits = []
    for name in reached_points(prompt, model.hook_names):
        try:
            model.sites.editable(name)
        except InputError:
            continue
        if is_square(name):
            edits.append(Edit(name, unchanged_rows, queries=queries_of(name)))
        else:
            edits.append(Edit(name, unchanged_value))
    return edits


def _compare_passes(model: HookedModel, prompt: Prompt, bare: torch.Tensor, findings: Findings) -> None:
    """The bare model against the walker: reading every attention on the way, and with every point written as it is."""
    known = {at: attn for stack, n in stacks(model, prompt) for at, attn in attentions(model, stack, n).items()}
    inside = [f"{at}.hook_{p}" for at, attn in known.items() for p in read_points(at, attn)]
    call = cache_call(model, prompt, [name for name in inside if name in model.sites.names])
    call = replace(call, program=with_proofs(model, call.program))
    with running(model):
        raw = run_here(model.nn, call.plain())
    proofs = {at: raw["kept"].pop(at) for at in known if at in raw["kept"]}
    logits, cache = read(call.reading, model, raw, prompt)
    edits = identity_edits(model, prompt)
    findings.same("the untouched pass is the bare model's", logits, bare)
    findings.same(f"identity at {len(edits)} points", run_edits(model, prompt, (), edits)[0], bare)
    for at, attn in known.items():
        check_attention(model, findings, at, attn, cache, proofs.get(at), prompt.token_map["all"])


def places(model: HookedModel, prompt: Prompt) -> list[str]:
    """Every layer that the logits depend on: ``blocks.0`` and so on, and those of the vision tower that are read."""
    return [f"{stack.prefix}.{i}" for stack, n in stacks(model, prompt) for i in range(n)]

"""The self-test of a model that is somewhere else: one job, which brings back a few numbers.

- the identity edit at every point that can be edited changes no logit, bit for bit;
- a perturbed pattern moves the logits, in every layer of the decoder and in every vision layer that is read;
- in a layer in the middle, pattern rows sum to one and ``resid_pre + Δattn + Δmlp = resid_post``.
"""

from __future__ import annotations

from typing import Any

import torch

from lostattn.errors import InputError, UnsupportedModel
from lostattn.kernels.proof import rotated_rows
from lostattn.kernels.reduce import largest_change
from lostattn.plan.program import Edit, Reduction
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.remote.session import Later, Session
from lostattn.run.calls import Reading, Remote
from lostattn.run.make_calls import pass_call
from lostattn.selftest.local_proof import identity_edits, places
from lostattn.selftest.report import Check, Report
from lostattn.selftest.sample import sample_prompt

LOGITS = "hook_unembed"


def prove(model: HookedModel, prompt: Prompt | None, remote: Remote) -> Report:
    """Run the proof on a prompt (default: a small picture and two words).

    Raises:
        UnsupportedModel: a check failed; the message names each.
        InputError: the model has no processor to make a prompt with, and none was given.
        RemoteFailure: the job gave no result.
    """
    if prompt is None:
        if model.processor is None:
            raise InputError("the self-test needs a prompt: model.selftest(model.prompt(inputs=…), remote=True).")
        prompt = sample_prompt(model)
    edits = identity_edits(model, prompt)
    with Session(model, remote) as session:
        session.remember(prompt, [LOGITS])
        same = _change(session, prompt, edits)
        moved = {
            place: _change(session, prompt, [Edit(f"{place}.attn.hook_pattern", rotated_rows)])
            for place in places(model, prompt)
        }
        middle = model.cfg.n_layers // 2
        points = ("resid_pre", "attn_out", "mlp_out", "resid_post")
        kept = session.run_with_cache(prompt, [f"blocks.{middle}.hook_{p}" for p in points] + [f"pattern{middle}"])
    changes = {place: float(later.result()["change"]) for place, later in moved.items()}
    unmoved = float(same.result()["change"])
    checks = [Check(f"identity at {len(edits)} points", unmoved, unmoved == 0)]
    checks += [Check(f"a perturbed {p}.attn.hook_pattern moves the logits", c, c > 0) for p, c in changes.items()]
    report = Report(model.name, (*checks, *_stream(kept.result()[1], prompt, middle)))
    if not report.passed:
        raise UnsupportedModel(f"{report!r}\nThis model would be edited in vain on this service.")
    return report


def _change(session: Session, prompt: Prompt, edits: list[Edit]) -> Later:
    """The largest change of a logit that edits make."""
    reduction = Reduction("change", (LOGITS,), largest_change, {"name": LOGITS})
    return session.add(pass_call(session.model, prompt, Reading("numbers"), (), edits, [reduction]))


def _stream(cache: Any, prompt: Prompt, layer: int) -> list[Check]:
    real = prompt.token_map["all"].to(cache["resid_pre", layer].device)
    sums = float((cache["pattern", layer].sum(-1).transpose(1, 2)[real] - 1).abs().max())
    after = cache["resid_post", layer][real]
    total = (cache["resid_pre", layer] + cache["attn_out", layer] + cache["mlp_out", layer])[real]
    gap = float((total.float() - after.float()).norm() / after.float().norm())
    allowed = max(1e-5, 8 * torch.finfo(after.dtype).eps)
    return [
        Check(f"rows of blocks.{layer}.attn.hook_pattern sum to one", sums, sums < 1e-5),
        Check(f"blocks.{layer}: resid_pre + Δattn + Δmlp = resid_post", gap, gap < allowed),
    ]

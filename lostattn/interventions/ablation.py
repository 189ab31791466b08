"""Ablations: take what a component writes away, or put an average or another position's in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.kernels import edits as kernels
from lostattn.plan.checks import Layers, Steps, checked_seed, checked_steps, choice, finite, normalise
from lostattn.plan.heads import Heads, checked_heads
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting

POINTS = {
    "attn": "hook_attn_out",
    "mlp": "hook_mlp_out",
    "head": "attn.hook_z",
    "resid": "hook_resid_post",
    "between": "hook_between",
    "cross_attn": "hook_cross_attn_out",
    "cross_head": "cross_attn.hook_z",
}

HEADS = ("head", "cross_head")


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class Ablate(Intervention):
    """Ablate what attention or the FFN adds, what single heads read, or the stream after a layer.

    Where: ``"attn"`` at ``hook_attn_out``, ``"mlp"`` at ``hook_mlp_out``, ``"head"`` at ``attn.hook_z`` (before the
    output map, so under grouped keys each query head stands alone), ``"resid"`` at ``hook_resid_post``, ``"between"``
    at ``hook_between`` (what is added after a layer and before the next, such as deepstack features). Of
    cross-attention beside self-attention, ``"cross_attn"`` at ``hook_cross_attn_out`` and ``"cross_head"`` at
    ``cross_attn.hook_z``.

    ``to``: ``"zero"``; ``"mean"``, the average over the real positions of the same prompt, or over the rows of
    ``reference``; ``"resample"``, the value of a position of the same prompt (or row of ``reference``), drawn
    by ``seed``. At decoding steps mean and resample use the prompt's activations, kept since the prefill (whatever
    ``steps`` says).

    ``heads``: the same in every layer, or ``{layer: heads}`` for each layer its own.

    ``reference``: ``[row, d_model]``, or ``[row, head, d_head]`` for heads; rows of other prompts, for example.
    One mean or one set of rows serves every layer that is chosen.

    When it is weak: zero is off the distribution that later layers expect, and what is lost may be that rather than
    the information; compare with ``"mean"`` and ``"resample"``.
    """

    what: str
    layers: Layers = None
    heads: Heads = None
    positions: Any = "all"
    to: str = "zero"
    reference: Tensor | None = None
    seed: int = 0
    steps: Steps = "all"

    def __post_init__(self) -> None:
        choice("what", self.what, tuple(POINTS))
        choice("to", self.to, ("zero", "mean", "resample"))
        heads, layers = checked_heads(self.heads, self.layers)
        normalise(self, layers=layers, heads=heads)
        normalise(self, steps=checked_steps(self.steps), seed=checked_seed(self.seed))
        if self.heads is not None and self.what not in HEADS:
            raise InputError(f"heads= goes with Ablate('head', …), not with {self.what!r}.")
        if self.reference is not None:
            if self.to == "zero":
                raise InputError("reference= goes with to='mean' or to='resample'; zeros need none.")
            normalise(self, reference=finite("Ablate(reference)", self.reference))

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit for each layer."""
        positions = setting.positions(self.positions)
        out = []
        for i in setting.layers(self.layers, POINTS[self.what]):
            name = f"blocks.{i}.{POINTS[self.what]}"
            self._check_reference(setting, name)
            steps, slot = checked_steps(self.steps), setting.slot(f"ablate.{name}")
            real = setting.positions("all")
            if self.to != "zero" and self.reference is None and steps[0] > 0:
                # What decoding steps take from the prompt must be kept at its pass, where this does not act yet.
                out.append(Edit(name, kernels.keep_pool, {"real": real, "slot": slot}, steps=(0, 1), watches=True))
            params = {
                "to": self.to,
                "positions": positions,
                "real": real,
                "heads": setting.heads(self.heads, name),
                "seeds": setting.seeds(self.seed, "resample", i),
                "reference": self.reference,
                "slot": slot,
            }
            out.append(Edit(name, kernels.ablate, params, steps))
        return out

    def _check_reference(self, setting: Setting, name: str) -> None:
        if self.reference is None:
            return
        row: tuple[int, ...] = (setting.sites.architecture.stack.d_model,)
        if self.what in HEADS:
            attn = setting.attention_at(name)
            row = (attn.n_heads, attn.d_head)
        got = tuple(self.reference.shape)
        if len(got) != 1 + len(row) or got[1:] != row:
            expected = "[row, " + ", ".join(map(str, row)) + "]"
            raise InputError(f"Ablate(reference) has shape {got}; {name!r} needs {expected}.")

"""The proof at load: on a small picture, every kind of hook point does what it says on this very model.

- the untouched pass through the walker gives the bare model's logits, bit for bit;
- the identity edit at every point that can be edited changes nothing, bit for bit;
- a perturbed pattern moves the logits, in every layer of the decoder and in every vision layer that is read;
- pattern rows sum to one, and times the values they give what the attention kernel gave;
- ``resid_pre + Δattn + Δmlp = resid_post``, with the modules' own outputs as the updates.

Of a prompt without a picture only the decoder is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from lostattn.errors import InputError, UnsupportedModel
from lostattn.kernels.attention import mixed_values
from lostattn.plan import Edit
from lostattn.presence import has_picture, reached

if TYPE_CHECKING:
    from lostattn.model import LVLM
    from lostattn.prompt import Prompt


@dataclass(frozen=True)
class Check:
    """One check: what it looked at, what it measured (0 is perfect where it is an error), and whether it passed."""

    name: str
    measured: float
    passed: bool


@dataclass(frozen=True)
class Report:
    """What the self-test saw."""

    model: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def __repr__(self) -> str:
        lines = [
            f"self-test of {self.model}: {len(self.checks) - len(self.failed)} of {len(self.checks)} checks passed"
        ]
        lines += [f"  FAILED {check.name}: {check.measured:.3g}" for check in self.failed]
        return "\n".join(lines)


def unchanged(x: Any, here: Any) -> Any:
    """The identity edit of a tensor; a copy, so that the write itself is put to the test."""
    return x.clone()


def unchanged_rows(x: Any, cells: Any, here: Any) -> Any:
    """The identity edit at the attention boundary."""
    return x


def rotated_rows(x: Any, cells: Any, here: Any) -> Any:
    """Weights moved one key on: a perturbation that keeps every row's sum."""
    return x.roll(1, dims=-1)


def sample_picture() -> Image.Image:
    """A small picture of colour gradients: no two patches alike."""
    image = Image.new("RGB", (64, 64))
    image.putdata([((x * 4) % 256, (y * 4) % 256, (x * y) % 256) for y in range(64) for x in range(64)])
    return image


def selftest(model: LVLM, prompt: Prompt | None = None) -> Report:
    """Run the proof on a prompt (default: a small picture and two words).

    Raises:
        UnsupportedModel: a check failed; the message names each.
        InputError: the model has no processor to make a prompt with, and none was given.
    """
    if prompt is None:
        if model.processor is None:
            raise InputError("the self-test needs a prompt: model.selftest(model.prompt(inputs=…)).")
        prompt = model.prompt("What is this?", images=[sample_picture()])
    checks = [*_identities(model, prompt), *_patterns(model, prompt), *_stream(model, prompt)]
    report = Report(model.name, tuple(checks))
    if not report.passed:
        raise UnsupportedModel(f"{report!r}\nThis model would be edited in vain; load with selftest=False to look on.")
    return report


def _identities(model: LVLM, prompt: Prompt) -> list[Check]:
    """The bare model against the walker, and one pass with the identity at every editable point at once."""
    with torch.no_grad():
        bare = model.hf(**model._inputs(prompt), use_cache=False).logits
    untouched = model.forward(prompt)
    edits = []
    for name in reached(prompt, model.hook_names):
        try:
            model.sites.editable(name)
        except InputError:
            continue
        rows = name.endswith(("attn.hook_pattern", "attn.hook_attn_scores"))
        edits.append(Edit(name, unchanged_rows if rows else unchanged))
    same = model._run(prompt, (), edits)[0]
    return [
        Check("the untouched pass is the bare model's", _worst(untouched, bare), torch.equal(untouched, bare)),
        Check(f"identity at {len(edits)} points", _worst(same, bare), torch.equal(same, bare)),
    ]


def _places(model: LVLM, prompt: Prompt) -> list[str]:
    """Every layer that the logits depend on: ``blocks.0`` and so on, and those of the vision tower that are read."""
    vision = model.architecture.vision
    places = [f"blocks.{i}" for i in range(model.cfg.n_layers)]
    if vision is not None and has_picture(prompt):
        places += [f"{vision.stack.prefix}.{i}" for i in range(vision.n_read)]
    return places


def _patterns(model: LVLM, prompt: Prompt) -> list[Check]:
    bare = model.forward(prompt)
    checks = []
    for place in _places(model, prompt):
        moved = model._run(prompt, (), [Edit(f"{place}.attn.hook_pattern", rotated_rows)])[0]
        change = _worst(moved, bare)
        checks.append(Check(f"a perturbed {place}.attn.hook_pattern moves the logits", change, change > 0))
    return checks


def _stream(model: LVLM, prompt: Prompt) -> list[Check]:
    """Pattern rows, what they read, and the residual identity, layer by layer."""
    points = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    inside = ("attn.hook_pattern", "attn.hook_v", "attn.hook_z")
    places = _places(model, prompt)
    _, cache = model.run_with_cache(prompt, [f"{place}.{p}" for place in places for p in (*points, *inside)])
    eps = torch.finfo(model.cfg.dtype).eps
    checks = []
    for place in places:
        pre, attn, mlp, post = (cache[f"{place}.{p}"] for p in points)
        pattern, v, z = (cache[f"{place}.{p}"] for p in inside)
        v, z = (x if x.dim() == 4 else x[None] for x in (v, z))  # a tower may pack all its pictures into one
        real = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        if place.startswith("blocks."):
            real = prompt.token_map["all"].to(z.device)
        sums = _worst(pattern.sum(-1).transpose(1, 2)[real], torch.ones(1, device=z.device))
        checks.append(Check(f"rows of {place}.attn.hook_pattern sum to one", sums, sums < 1e-5))
        read = _relative(mixed_values(pattern, v.transpose(1, 2))[real], z[real])
        checks.append(Check(f"{place}: pattern @ v = z", read, read < max(1e-4, 8 * eps)))
        seen = real.reshape(post.shape[:-1])
        gap = _relative((pre + attn + mlp)[seen], post[seen])
        checks.append(Check(f"{place}: resid_pre + Δattn + Δmlp = resid_post", gap, gap < max(1e-5, 8 * eps)))
    return checks


def _worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-30))

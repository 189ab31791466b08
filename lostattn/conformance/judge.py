"""One family put to the self-test and compared with the bare model, as a row of the table of supported models."""

from __future__ import annotations

import copy
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lostattn.architecture.call_order import calls_attention
from lostattn.checkpoint.attention_choice import other_parts
from lostattn.conformance.compare import compare
from lostattn.conformance.comparison import plain
from lostattn.conformance.default_config import amiss, default_config, on_meta, ways
from lostattn.conformance.inputs import NoInput, moved_picture, picture_inputs, prompt_of
from lostattn.conformance.models import build, families
from lostattn.errors import LostAttnError, UnsupportedModel
from lostattn.model.load import load
from lostattn.model.lvlm import LVLM
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.prompt.picture_inputs import has_picture, holds_picture

DEFAULTS = "default config"  # stands where a kernel does: the class's own config, on the meta device
OUTCOMES = ("passed", "failed", "refused", "not built", "no input")


@dataclass(frozen=True)
class Verdict:
    """What one family did under one kernel.

    ``outcome``: ``passed``; ``failed`` (the self-test names a point, or a comparison with the bare model did not come
    out); ``refused`` (its parts were not found); ``not built`` (transformers itself cannot, without a package or with
    this kernel); ``no input`` (no picture in a layout that is known here). ``comparisons`` holds the largest error of
    each comparison and what was allowed, or why the family cannot have it. ``remarks`` says what is not there, or
    why; ``differ`` in what the layers of the default config differ, all of which the tiny model has too.
    """

    family: str
    kernel: str
    outcome: str
    kinds: str = ""
    points: int = 0
    checks: int = 0
    layout: str = ""
    image: str = ""
    vision: str = ""
    remarks: str = ""
    seconds: float = 0.0
    comparisons: dict[str, dict[str, Any]] = field(default_factory=dict)
    differ: str = ""

    @property
    def passed(self) -> bool:
        """Whether the self-test passed, and every comparison that the family can have."""
        return self.outcome == "passed"

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


def judge(family: str, kernel: str = "eager", seed: int = 0) -> Verdict:
    """Build a family, resolve it, run the self-test on a picture, and compare it with a bare model."""
    began = time.perf_counter()
    found = _at_defaults(family) if kernel == DEFAULTS else _judged(family, kernel, seed)
    return replace(found, seconds=round(time.perf_counter() - began, 1))


def _at_defaults(family: str) -> Verdict:
    """Resolve the family at its class's default config, without weights, and hold what is found to the modules."""
    try:
        config, filled = default_config(family)
        module = on_meta(family, config)
    except Exception as error:  # whatever transformers says
        kind = families()[family]
        reason = f"transformers cannot build {kind} from its config's own defaults: {_line(error)}"
        return Verdict(family, DEFAULTS, "not built", remarks=reason)
    try:
        model = HookedModel(module, None, family)
        differ, lost = ways(family, model)
        wrong = amiss(model) + [f"the tiny model's layers do not differ in {name}" for name in lost]
    except UnsupportedModel as error:
        return Verdict(family, DEFAULTS, "refused", remarks=_line(error))
    except Exception as error:  # a crash is a failure of ours, and is shown as one
        return Verdict(family, DEFAULTS, "failed", remarks=_line(error))
    given = [f"its defaults do not settle {', '.join(filled)}"] if filled else []
    outcome, points = "failed" if wrong else "passed", len(model.hook_names)
    remarks = "; ".join([*wrong[:3], *given])
    return Verdict(family, DEFAULTS, outcome, points=points, remarks=remarks, differ=", ".join(differ))


def _judged(family: str, kernel: str, seed: int) -> Verdict:
    def ended(outcome: str, error: BaseException) -> Verdict:
        return Verdict(family, kernel, outcome, remarks=_line(error))

    try:
        module = build(family, kernel, seed)
    except Exception as error:  # whatever transformers says
        return ended("not built", error)
    try:
        inputs, layout = picture_inputs(module, family, seed)
    except NoInput as error:
        return ended("no input", error)
    try:
        reaches = not holds_picture(inputs) or _picture_reaches(module, inputs)
        bare = copy.deepcopy(module)
        model = load(module, selftest=False)
        prompt = prompt_of(model, inputs)
        report = model.selftest(prompt)
        flex = (lambda: build(family, "flex_attention", seed)) if kernel == "sdpa" else None
        compared = compare(model, bare, prompt, flex)
    except UnsupportedModel as error:
        return ended("failed" if "FAILED" in str(error) else "refused", error)
    except Exception as error:  # a crash is a failure of ours, and is shown as one
        return ended("failed", error)
    amiss = [str(one) for one in compared.values() if one.failed]
    unmoved = "" if reaches or not has_picture(prompt) else "the picture does not move the logits"
    return Verdict(
        family,
        kernel,
        "failed" if amiss else "passed",
        kinds=", ".join(Counter(block.kind for block in model.architecture.stack.blocks)),
        points=len(model.hook_names),
        checks=len(report.checks),
        layout=layout if has_picture(prompt) else "none",
        image=_image(prompt),
        vision=_tower(model),
        remarks="; ".join(filter(None, (*amiss, _remarks(model), unmoved))),
        comparisons=plain(compared),
    )


def _tower(model: LVLM) -> str:
    """How many layers of a vision tower have points."""
    vision = model.architecture.vision
    seen = any(name.startswith("vision_encoder.") for name in model.hook_names)
    return f"{len(vision.stack.blocks)} layers" if seen and vision is not None else "none"


def _picture_reaches(module: Any, inputs: dict[str, Tensor]) -> bool:
    """Whether another picture gives other logits."""
    with torch.no_grad():
        return not torch.equal(module(**inputs).logits, module(**moved_picture(inputs)).logits)


def _image(prompt: Prompt) -> str:
    grids = [grid for own in prompt.token_map.grids for grid in own]
    known = ", ".join(str(g) for g in grids if g) or next(map(str, grids), "grid not known")
    n = int(prompt.token_map["image"].sum())
    if prompt.token_map.cross is not None:
        return f"{int(prompt.token_map.cross.resolve().sum())} keys of cross-attention, {known}"
    if not has_picture(prompt):
        return "takes no picture"
    return f"{n} tokens, {known}" if n else "no image tokens known"


def _remarks(model: LVLM) -> str:
    """What this model lacks beside the plain case, in a few words."""
    stack = model.architecture.stack
    names = set(model.hook_names)

    def without(point: str) -> list[int]:
        return [i for i in range(len(stack.blocks)) if f"blocks.{i}.{point}" not in names]

    said = []
    for point in ("attn.hook_pattern", "hook_resid_mid", "mlp.hook_post", "attn.hook_q", "attn.hook_v"):
        missing = without(point)
        if missing:
            which = "" if len(missing) == len(stack.blocks) else f" in layers {missing}"
            said.append(f"no {point.removeprefix('attn.')}{which}")
    unwritten = [b for i, b in enumerate(stack.blocks) if f"blocks.{i}.hook_resid_mid" in names
                 and f"blocks.{i}.hook_resid_mid" not in model.sites.written]  # fmt: skip
    if unwritten:
        said.append("resid_mid is read only")
    if any(_attentions(model, block.path) > len(block.attentions) for block in stack.blocks):
        said.append("no points of the cross-attention beside self-attention")
    if model.architecture.no_vision:
        said.append(f"vision tower: {model.architecture.no_vision}")
    elif model.architecture.vision is None:
        said.append("no attention of a vision tower was found")
    said += [f"{part} runs {kernel}" for part, kernel in other_parts(model.hf.config).items()]
    return "; ".join(said)


def _attentions(model: LVLM, path: str) -> int:
    """How many modules of a layer call the attention interface."""
    return sum(calls_attention(module) for module in model.hf.get_submodule(path).modules())


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    known = isinstance(error, LostAttnError)
    return (text if known else f"{type(error).__name__}: {text}")[:400]

"""Training a tiny model on `shapes`, from nothing to a folder like a public checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.data.asking import KINDS
from lostattn.data.scene import COLOURS, GRID, SHAPES, SIZES, WIDE_SIZES, Scene, draw_jitter, draw_scene, paint
from lostattn.errors import InputError
from lostattn.zoo.card import write_card
from lostattn.zoo.course import COURSES, FIRST_MIX, Part
from lostattn.zoo.evaluate import evaluate, write_evaluation
from lostattn.zoo.lessons import TAUGHT, teach
from lostattn.zoo.packing import Asked, LlavaFamily, Packer, QwenFamily, family_of, packed_hidden, training_attention
from lostattn.zoo.recipe import build_model, build_processor, check_name, save


@dataclass
class Sampler:
    """Draws packed batches of one split, every kind's answers in balance."""

    family: LlavaFamily | QwenFamily
    split: str
    rng: np.random.Generator
    mix: Mapping[str, int] = field(default_factory=lambda: FIRST_MIX)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def _ask(self, kind: str, scene: Scene, other: Scene) -> Asked | None:
        """A question whose answer has been rare so far."""
        answers = list(TAUGHT[kind])
        self.rng.shuffle(answers)
        for answer in sorted(answers, key=lambda a: self.counts[kind, a]):
            if text := teach(kind, answer, scene, self.rng, other):
                self.counts[kind, answer] += 1
                return Asked(kind, text, answer, 2 if kind == "comparison" else 1)
        return None

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The picture sizes that the family can tell apart."""
        return SIZES + (WIDE_SIZES if isinstance(self.family, QwenFamily) else ())

    def batch(self, n: int) -> tuple[list[list[Asked]], list[np.ndarray], list[Scene], tuple[int, int]]:
        """Questions by scene; pictures (two a scene, in order), their scenes, and their common size."""
        sizes = self.sizes()
        # The plain sizes come first, and more often.
        size = sizes[self.rng.integers(len(SIZES) if self.rng.random() < 0.7 else len(sizes))]
        rows: list[list[Asked]] = []
        pictures: list[np.ndarray] = []
        scenes: list[Scene] = []
        while len(rows) < n:
            pair = draw_scene(self.rng, self.split), draw_scene(self.rng, self.split)
            asked = [self._ask(kind, *pair) for kind, many in self.mix.items() for _ in range(many)]
            row = [a for a in asked if a is not None]
            if not any(a.kind == "comparison" for a in row):
                continue
            rows.append(row)
            scenes += pair
            pictures += [paint(s, size, draw_jitter(self.rng, s)) for s in pair]
        return rows, pictures, scenes, size


def cell_targets(scenes: list[Scene], grid: tuple[int, int]) -> Tensor:
    """For each visual token, what stands in the cell under its middle: 0 nothing, else colour and shape.

    Returns:
        `[scene, token]`, values in `[0, 16]`.
    """
    out = np.zeros((len(scenes), GRID, GRID), np.int64)
    for i, scene in enumerate(scenes):
        for o in scene.objects:
            out[i, o.row, o.column] = 1 + COLOURS.index(o.colour) * len(SHAPES) + SHAPES.index(o.shape)
    rows = ((np.arange(grid[0]) + 0.5) * GRID / grid[0]).astype(int)
    columns = ((np.arange(grid[1]) + 0.5) * GRID / grid[1]).astype(int)
    return torch.from_numpy(out[:, rows][:, :, columns].reshape(len(scenes), -1))


def _rate(step: int, s: Part) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    if step < s.warmup:
        return (step + 1) / s.warmup
    done = (step - s.warmup) / max(1, s.steps - s.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _optimisers(model: Any, head: torch.nn.Linear, s: Part) -> list[torch.optim.Optimizer]:
    """AdamW for everything; or Muon for the matrices inside the layers, and AdamW for the rest."""
    layers = [model.model.language_model.layers, *(m for m in _towers(model))]
    inner = {p for part in layers for p in part.parameters() if p.ndim == 2} if s.muon_lr else set()
    others = [p for p in (*model.parameters(), *head.parameters()) if p not in inner]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": [p for p in others if p.ndim >= 2], "weight_decay": s.weight_decay, "peak": s.lr},
                {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0, "peak": s.lr},
            ],
            lr=s.lr,
            betas=(0.9, 0.98),
            fused=True,
        )
    ]
    if inner:
        ordered = [p for p in model.parameters() if p in inner]
        group = {"params": ordered, "peak": s.muon_lr}
        found.append(
            torch.optim.Muon([group], lr=s.muon_lr, weight_decay=s.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return found


def _towers(model: Any) -> list[torch.nn.Module]:
    """The layers of the vision tower, and the projector of two matrices."""
    inside = model.model
    if hasattr(inside, "visual"):
        return [inside.visual.blocks, inside.visual.merger]
    return [inside.vision_tower.encoder.layers, inside.multi_modal_projector]


def _losses(model: Any, head: torch.nn.Linear, packer: Packer, batch: Any, s: Part) -> tuple[Tensor, Tensor, Tensor]:
    """Loss on each answer, on stopping after them, and the dense loss on the projector's outputs."""
    rows, pictures, scenes, size = batch
    family = packer.family
    packed = packer.pack(rows, size)
    features = family.encode(model, family.pixels(pictures), size)
    hidden = packed_hidden(model, family, packed, features)
    cross_entropy = torch.nn.functional.cross_entropy
    logits = model.lm_head(hidden[packed.rows, packed.columns]).float()
    answers = cross_entropy(logits, packed.answers, reduction="none")
    stops = torch.full_like(packed.answers, family.stop_token)
    stop = cross_entropy(model.lm_head(hidden[packed.rows, packed.columns + 1]).float(), stops)
    standing = cell_targets(scenes, family.grid(size)).flatten()
    dense = cross_entropy(head(features).flatten(0, 1).float(), standing)
    return answers, stop, dense


@torch.no_grad()
def quick_accuracy(model: Any, packer: Packer, seed: int, split: str = "val", batches: int = 4) -> dict[str, float]:
    """Accuracy by kind, packed, over the whole vocabulary; `"all"` is the mean over kinds."""
    model.eval()
    sampler = Sampler(packer.family, split, np.random.default_rng([seed, 1]))
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for _ in range(batches):
        rows, pictures, _, size = sampler.batch(32)
        packed = packer.pack(rows, size)
        features = packer.family.encode(model, packer.family.pixels(pictures), size)
        hidden = packed_hidden(model, packer.family, packed, features)
        hits = model.lm_head(hidden[packed.rows, packed.columns]).argmax(-1) == packed.answers
        for asked, hit in zip((a for row in rows for a in row), hits.tolist(), strict=True):
            right[asked.kind] += hit
            total[asked.kind] += 1
    model.train()
    found = {kind: right[kind] / total[kind] for kind in KINDS}
    return {"all": sum(found.values()) / len(found), **found}


def finish(name: str, folder: str | Path, n: int = 2000) -> Path:
    """Evaluate a trained model on unseen questions, through its real processor, and write its model card.

    Args:
        name: which of the tiny models it is.
        folder: where `train` has saved it.
        n: how many questions of the test split of `shapes`; and of `shapes-wide`, where it reads that too.
    """
    results = [evaluate(folder, n)]
    if name == "tiny-qwen2_5-vl":
        results.append(evaluate(folder, n, data="shapes-wide"))
    write_evaluation(folder, results)
    return write_card(name, folder)


@dataclass
class _Run:
    """What the parts of a course share: the model, how to ask it, and the log."""

    model: Any
    processor: Any
    packer: Packer
    out: Path
    tell: Callable[[dict[str, Any]], None]
    asked: int = 0
    started: float = field(default_factory=time.monotonic)

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the log, and tell it."""
        with (self.out / "train_log.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")
        self.tell(line)


@checked_call
def train(
    name: str,
    out: str | Path,
    seed: int = 0,
    *,
    course: Sequence[Part] | None = None,
    bf16: bool = True,
    questions: int = 2000,
    log: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train one tiny model and save it with its processor, its log, its evaluation and its model card.

    Args:
        name: `"tiny-llava"` or `"tiny-qwen2_5-vl"`.
        out: folder to write to; made if missing.
        seed: of weights, scenes and questions.
        course: the parts of the training; None is the one that the shipped weights went through.
        bf16: multiply matrices in bfloat16; the weights stay float32.
        questions: how many unseen questions the finished model is asked for its card; 0 asks none, writes none.
        log: called with every line of the log as it is written; None prints it.

    Returns:
        The folder.

    Raises:
        UnknownName: no tiny model is called so.
        InputError: the folder cannot be written.
    """
    parts = tuple(course or COURSES[check_name(name)])
    out = _fresh(out)
    processor = build_processor(name)  # the same words whatever the seed
    packer = Packer(family_of(processor))
    torch.manual_seed(seed)
    model = build_model(name, processor.tokenizer)
    run = _Run(model, processor, packer, out, log or (lambda line: print(json.dumps(line), flush=True)))
    run.log({"name": name, "seed": seed, "bf16": bf16, "parts": [asdict(part) for part in parts]})
    for number, part in enumerate(parts):
        _teach(run, number, part, seed, bf16)
    if questions:
        finish(name, out, questions)
    return out


def _fresh(out: str | Path) -> Path:
    """The folder, made if missing, without the log of an earlier training."""
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "train_log.jsonl").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to {out}: {error.strerror}. Name a folder you may write to.") from error
    return out


def _turn(model: Any, rotary: Mapping[str, Any]) -> None:
    """Give the decoder other rotary settings; they hold no weights."""
    config = model.config.text_config
    config.rope_parameters = {**config.rope_parameters, **rotary}
    language = model.model.language_model
    language.config.rope_parameters = dict(config.rope_parameters)
    language.rotary_emb = type(language.rotary_emb)(config=language.config)


def _teach(run: _Run, number: int, s: Part, seed: int, bf16: bool) -> None:
    """Go through one part of a course."""
    model, packer = run.model, run.packer
    if s.rotary is not None:
        _turn(model, s.rotary)
    rng = np.random.default_rng([seed + number, *s.stream])
    sampler = Sampler(packer.family, "train", rng, s.mix)
    head = torch.nn.Linear(model.config.text_config.hidden_size, 1 + len(COLOURS) * len(SHAPES))
    parameters = [*model.parameters(), *head.parameters()]
    optimisers = _optimisers(model, head, s)
    model.train()
    last = s.stop or s.steps
    losses = _Losses()
    for step in range(1, last + 1):
        for group in (g for optimiser in optimisers for g in optimiser.param_groups):
            group["lr"] = group["peak"] * _rate(step - 1, s)
        batch = sampler.batch(s.scenes)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), training_attention(model):
            answers, stop, dense = _losses(model, head, packer, batch, s)
        fade = max(0.0, 1 - step / (s.dense_until * s.steps))
        (answers.mean() + s.stop_weight * stop + s.dense_weight * fade * dense).backward()
        torch.nn.utils.clip_grad_norm_(parameters, s.clip)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        losses.add([asked.kind for row in batch[0] for asked in row], answers, stop, dense)
        run.asked += len(answers)
        checked = step % s.check_every == 0 or step == last
        if checked or step % s.log_every == 0:
            line: dict[str, Any] = {"part": number + 1, "step": step, "questions": run.asked}
            line |= {"seconds": round(time.monotonic() - run.started, 1), **losses.mean()}
            if checked:
                line["val"] = {k: round(v, 4) for k, v in quick_accuracy(model, packer, seed).items()}
                save(model, run.processor, run.out)
            run.log(line)
            losses = _Losses()


@dataclass
class _Losses:
    """Losses since the last line of the log."""

    parts: list[tuple[float, float, float]] = field(default_factory=list)
    by_kind: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kinds: list[str], answers: Tensor, stop: Tensor, dense: Tensor) -> None:
        """Take in one step: a loss for each answer and its kind, and the two others."""
        self.parts.append((float(answers.detach().mean()), float(stop.detach()), float(dense.detach())))
        for kind, loss in zip(kinds, answers.tolist(), strict=True):
            self.by_kind.setdefault(kind, []).append(loss)

    def mean(self) -> dict[str, Any]:
        """All means, ready for the log."""
        means = [round(sum(column) / len(column), 4) for column in zip(*self.parts, strict=True)]
        kinds = {kind: round(sum(v) / len(v), 3) for kind, v in sorted(self.by_kind.items())}
        return {**dict(zip(("answer", "stop", "dense"), means, strict=True)), "kinds": kinds}

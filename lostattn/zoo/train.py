"""Training a tiny model on `shapes`, from nothing to a folder like a public checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lostattn.data.asking import CHOICES, KINDS, ask
from lostattn.data.scene import (
    COLOURS,
    GRID,
    SHAPES,
    SIZES,
    WIDE_SIZES,
    Scene,
    draw_jitter,
    draw_scene,
    paint,
)
from lostattn.zoo.card import write_card
from lostattn.zoo.evaluate import evaluate, write_evaluation
from lostattn.zoo.packing import (
    Asked,
    LlavaFamily,
    Packer,
    QwenFamily,
    family_of,
    packed_hidden,
    training_attention,
)
from lostattn.zoo.recipe import build_model, build_processor, check_name, save

QUESTIONS_PER_SCENE = {
    "existence": 2,
    "colour": 1,
    "shape": 1,
    "counting": 2,
    "relation": 3,
    "comparison": 1,
    "choice": 1,
}
"""How many questions of each kind are packed behind one scene."""


@dataclass(frozen=True)
class Settings:
    """The numbers of a training run; what is not said here is PyTorch's default."""

    seed: int = 0
    steps: int = 4000
    scenes: int = 12
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    stop_weight: float = 0.05
    dense_weight: float = 0.5
    dense_until: float = 0.5
    log_every: int = 100
    check_every: int = 400


@dataclass
class Sampler:
    """Draws packed batches of one split, every kind's answers in balance."""

    family: LlavaFamily | QwenFamily
    split: str
    rng: np.random.Generator
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def _ask(self, kind: str, scene: Scene, other: Scene) -> Asked | None:
        """A question whose answer has been rare so far."""
        answers = list(CHOICES[kind])
        self.rng.shuffle(answers)
        for answer in sorted(answers, key=lambda a: self.counts[kind, a]):
            if text := ask(kind, answer, scene, self.rng, other):
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
            asked = [self._ask(kind, *pair) for kind, many in QUESTIONS_PER_SCENE.items() for _ in range(many)]
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


def _rate(step: int, s: Settings) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    if step < s.warmup:
        return (step + 1) / s.warmup
    done = (step - s.warmup) / max(1, s.steps - s.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _losses(
    model: Any, head: torch.nn.Linear, packer: Packer, batch: Any, s: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss on answers, loss on stopping after them, and the dense loss on the projector's outputs."""
    rows, pictures, scenes, size = batch
    family = packer.family
    packed = packer.pack(rows, size)
    features = family.encode(model, family.pixels(pictures), size)
    hidden = packed_hidden(model, family, packed, features)
    cross_entropy = torch.nn.functional.cross_entropy
    answer = cross_entropy(model.lm_head(hidden[packed.rows, packed.columns]).float(), packed.answers)
    stops = torch.full_like(packed.answers, family.stop_token)
    stop = cross_entropy(model.lm_head(hidden[packed.rows, packed.columns + 1]).float(), stops)
    standing = cell_targets(scenes, family.grid(size)).flatten()
    dense = cross_entropy(head(features).flatten(0, 1).float(), standing)
    return answer, stop, dense


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


def train(
    name: str,
    out: str | Path,
    seed: int = 0,
    steps: int = 4000,
    *,
    settings: Settings | None = None,
    bf16: bool = True,
    questions: int = 2000,
    log: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train one tiny model and save it with its processor, its log, its evaluation and its model card.

    Args:
        name: `"tiny-llava"` or `"tiny-qwen2_5-vl"`.
        out: folder to write to; made if missing.
        seed: of weights, scenes and questions.
        steps: optimiser steps; the learning rate falls to nothing over them.
        settings: all other numbers (its seed and steps are replaced by the two above).
        bf16: multiply matrices in bfloat16; the weights stay float32.
        questions: how many unseen questions the finished model is asked for its card; 0 asks none and writes none.
        log: called with every line of the log as it is written; None prints it.

    Returns:
        The folder.
    """
    check_name(name)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    s = Settings(**{**(settings or Settings()).__dict__, "seed": seed, "steps": steps})
    torch.manual_seed(seed)
    processor = build_processor(name, seed)
    model: Any = build_model(name, processor.tokenizer)
    packer = Packer(family_of(processor))
    sampler = Sampler(packer.family, "train", np.random.default_rng([seed, 0]))
    head = torch.nn.Linear(model.config.text_config.hidden_size, 1 + len(COLOURS) * len(SHAPES))
    parameters = [*model.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": s.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=s.lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    started = time.monotonic()
    asked = 0
    log_path = out / "train_log.jsonl"
    log_path.write_text(json.dumps({"name": name, "bf16": bf16, **s.__dict__}) + "\n", encoding="utf-8")
    model.train()
    sums = torch.zeros(3)
    for step in range(1, s.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = s.lr * _rate(step - 1, s)
        batch = sampler.batch(s.scenes)
        asked += sum(len(row) for row in batch[0])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), training_attention(model):
            answer, stop, dense = _losses(model, head, packer, batch, s)
        fade = max(0.0, 1 - step / (s.dense_until * s.steps))
        (answer + s.stop_weight * stop + s.dense_weight * fade * dense).backward()
        torch.nn.utils.clip_grad_norm_(parameters, s.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        sums += torch.stack([answer, stop, dense]).detach()
        checked = step % s.check_every == 0 or step == s.steps
        if step % s.log_every == 0 or checked:
            n = s.log_every if step % s.log_every == 0 else max(1, step % s.log_every)
            line: dict[str, Any] = {
                "step": step,
                "questions": asked,
                "seconds": round(time.monotonic() - started, 1),
            }
            line |= {k: round(v, 4) for k, v in zip(("answer", "stop", "dense"), (sums / n).tolist(), strict=True)}
            if checked:
                line["val"] = {k: round(v, 4) for k, v in quick_accuracy(model, packer, seed).items()}
                save(model, processor, out)
            with log_path.open("a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")
            (log or (lambda entry: print(json.dumps(entry), flush=True)))(line)
            sums.zero_()
    if questions:
        finish(name, out, questions)
    return out

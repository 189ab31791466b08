"""How well a model answers questions: greedy, through its real processor and chat template."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from lostattn.checkpoint.processors import load_processor
from lostattn.checkpoint.templates.chat import apply_chat_template
from lostattn.data import load
from lostattn.data.question import Question, Questions
from lostattn.files import write_text

EVALUATION = "evaluation.json"


def chat(question: Question) -> list[dict[str, Any]]:
    """The question as a conversation of one turn, its pictures first."""
    content: list[dict[str, str]] = [{"type": "image"} for _ in question.images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question.text}]}]


@torch.no_grad()
def answers(
    model: Any, processor: Any, questions: Sequence[Question], batch_size: int = 32, max_new_tokens: int = 4
) -> list[str]:
    """What plain `generate` says to each question, stripped of spaces and special tokens.

    Args:
        model: an unmodified Hugging Face model.
        processor: its processor; its tokenizer pads on the left.
        questions: questions of one or several pictures.
        batch_size: how many questions go through the model together.
        max_new_tokens: an answer that is longer is cut off, and so is wrong.
    """
    said: list[str] = []
    for start in range(0, len(questions), batch_size):
        batch = [questions[i] for i in range(start, min(start + batch_size, len(questions)))]
        prompts = [apply_chat_template(processor, chat(q), add_generation_prompt=True) for q in batch]
        inputs = processor(
            text=prompts,
            images=[list(q.images) for q in batch],
            padding=True,
            return_tensors="pt",
        )
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = out[:, inputs["input_ids"].shape[1] :]
        said += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    return said


def accuracy(questions: Iterable[Question], said: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Number of questions and share of right answers, by kind and over `"all"`."""
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for question, text in zip(questions, said, strict=True):
        for key in ("all", question.kind):
            total[key] += 1
            right[key] += text == question.answer
    return {
        key: {"n": total[key], "accuracy": right[key] / total[key]} for key in ("all", *sorted(set(total) - {"all"}))
    }


def evaluate(folder: str | Path, n: int = 2000, seed: int = 0, data: str = "shapes") -> dict[str, Any]:
    """Load a saved model as anybody would, ask it `n` unseen questions, and say how it did.

    Args:
        folder: a checkpoint's folder.
        n: how many questions of the test split.
        seed: of the questions.
        data: the data set's name.
    """
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    questions: Questions = load(data, split="test", n=n, seed=seed)
    found = accuracy(questions, answers(model, load_processor(folder), questions))
    return {"data": data, "split": "test", "seed": seed, "n": n, "accuracy": found}


def write_evaluation(folder: str | Path, results: Sequence[dict[str, Any]]) -> Path:
    """Write results of `evaluate` beside the weights, whole or not at all."""
    return write_text(Path(folder) / EVALUATION, json.dumps(list(results), indent=1) + "\n")

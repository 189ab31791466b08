"""Attention flow: cut attention from one part of the prompt to another, layer by layer, and see the answer go.

Where the answer's probability falls when the last position may not look at the image in layers 2 to 4, what it needs
from the image came over there. In the manner of Geva et al. (2023), "Dissecting recall of factual associations in
auto-regressive language models", for the parts of a prompt that holds a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lostattn.answers.choices import choices_of
from lostattn.answers.of_logits import answer_probability
from lostattn.arguments import checked_call
from lostattn.data.question import Question
from lostattn.errors import InputError
from lostattn.experiments.results import Results
from lostattn.experiments.running import Acted, batches, checked_questions, provenance, row_of
from lostattn.experiments.statistics import mean_interval
from lostattn.interventions.attention import KnockOut
from lostattn.model.answer_scores import score_choices
from lostattn.model.lvlm import LVLM
from lostattn.plan.touch_record import Touched
from lostattn.remote.session import Session
from lostattn.run.batches import bar
from lostattn.run.calls import Remote
from lostattn.run.make_calls import hooks_call

if TYPE_CHECKING:
    import pandas


EDGES: dict[str, tuple[Any, Any]] = {
    "image -> question": ("question", "image"),
    "image -> last": ("last", "image"),
    "question -> last": ("last", "question"),
    "within image": ("image", "image"),
}
"""``name: (queries, keys)``: who is kept from looking at whom. An arrow points the way that information goes."""

Windows = int | Sequence[Sequence[int]]


@checked_call
def flow(
    model: LVLM,
    data: Sequence[Question],
    edges: Mapping[str, tuple[Any, Any]] | None = None,
    windows: Windows = 1,
    batch_size: int = 32,
    progress: bool = True,
    remote: Remote = False,
) -> pandas.DataFrame:
    """How much of the answer's probability is lost when attention between two parts of the prompt is cut.

    Args:
        model: the model.
        data: questions with answers.
        edges: ``{name: (queries, keys)}`` (default: :data:`EDGES`).
        windows: how many neighbouring layers are cut together (each run of so many is tried), or the layers of each
            window. Cutting all layers at once is always among them.
        batch_size: questions a pass.
        progress: show a bar.
        remote: ``True`` runs each batch, under every cut, as one job on NDIF; logits of the last position come back.

    An answer of several tokens is taken whole: the edges are then cut at every token of it, as in a generation.

    Returns:
        One row an edge and window: ``edge, window, first, last, n, untouched, probability, change, low, high``.
        ``change`` is the mean over questions of ``(probability - untouched) / untouched``, with its 95 % interval over
        scenes. Its ``attrs`` say where it comes from.

    Raises:
        InputError: no questions, no edge, a window outside the model, or a prompt that lacks a part that an edge names.
    """
    import pandas as pd

    results = flow_questions(model, data, edges, windows, batch_size, progress, remote)
    rows = []
    for (edge, window), group in results.table.groupby(["edge", "window"], sort=False):
        found = mean_interval(group["change"], clusters=group["scene"])
        rows.append(
            {
                "edge": edge,
                "window": window,
                "first": int(group["first"].iloc[0]),
                "last": int(group["last"].iloc[0]),
                "n": len(group),
                "untouched": float(group["untouched"].mean()),
                "probability": float(group["probability"].mean()),
                "change": found.value,
                "low": found.low,
                "high": found.high,
            }
        )
    table = pd.DataFrame(rows)
    table.attrs.update(results.meta)
    return table


@checked_call
def flow_questions(
    model: LVLM,
    data: Sequence[Question],
    edges: Mapping[str, tuple[Any, Any]] | None = None,
    windows: Windows = 1,
    batch_size: int = 32,
    progress: bool = True,
    remote: Remote = False,
) -> Results:
    """The table behind :func:`flow`: one row a question, edge and window."""
    import pandas as pd

    questions = checked_questions(data, batch_size)
    chosen = dict(EDGES if edges is None else edges)
    if not chosen:
        raise InputError("edges is empty; give at least one, such as {'image -> last': ('last', 'image')}.")
    layers = _windows(windows, model.cfg.n_layers)
    cuts = [(edge, window, KnockOut(*pair, layers=window)) for edge, pair in chosen.items() for window in layers]
    n_batches = -(-len(questions) // batch_size)
    rows: list[dict[str, Any]] = []
    acted = Acted()
    with bar((len(cuts) + 1) * n_batches, f"cutting attention in {model.name}", progress) as passes:
        for batch in batches(questions, batch_size):
            (untouched, _), *rest = _probabilities(model, batch, [None, *(cut for _, _, cut in cuts)], passes, remote)
            for (edge, window, _), (_, touched) in zip(cuts, rest, strict=True):
                acted.add(f"{edge}, layers {_name(window)}", touched, len(batch))
            for (edge, window, _), (left, _) in zip(cuts, rest, strict=True):
                for question, before, after in zip(batch, untouched, left, strict=True):
                    place = {"edge": edge, "window": _name(window), "first": window[0], "last": window[-1]}
                    found = {"untouched": before, "probability": after, "change": (after - before) / max(before, 1e-12)}
                    rows.append({**row_of(question), **place, **found})
    order = {edge: i for i, edge in enumerate(chosen)}
    table = pd.DataFrame(rows).sort_values("edge", key=lambda c: c.map(order), kind="stable", ignore_index=True)
    meta = provenance(
        model,
        experiment="flow",
        n=len(questions),
        edges={edge: [repr(part) for part in pair] for edge, pair in chosen.items()},
        windows=[list(window) for window in layers],
        **acted.meta(),
    )
    return Results(table, meta)


def _probabilities(
    model: LVLM, batch: list[Question], edits: Sequence[KnockOut | None], passes: Any, remote: Remote
) -> list[tuple[list[float], Touched | None]]:
    """The probability of each right answer under each edit, and where that acted; an answer of several tokens whole."""
    prompt = model.prompt(batch)
    right = choices_of(model, batch, [[question.answer] for question in batch])
    if any(len(one.tokens[0]) > 1 for one in right):
        scores = []
        for edit in edits:
            scores.append(score_choices(model, prompt, right, edit, remote))
            passes.update()
        return [(one.value("probability").tolist(), one.touched) for one in scores]
    later = []
    with Session(model, remote) as session:
        for edit in edits:
            later.append(session.add(replace(hooks_call(model, prompt, (), edit), logits="last")))
            if remote is False:
                passes.update()
    if remote is not False:
        passes.update(len(later))
    tokens = torch.tensor([one.tokens[0][0] for one in right])
    return [(answer_probability(one.result(), tokens).tolist(), one.touched) for one in later]


def _windows(windows: Windows, n: int) -> list[tuple[int, ...]]:
    """The layers of each window, all layers last."""
    if isinstance(windows, int):
        if not 1 <= windows <= n:
            raise InputError(f"windows is {windows}; expected 1 to {n} layers, or lists of layers.")
        found = [tuple(range(i, i + windows)) for i in range(n - windows + 1)]
    else:
        found = [tuple(sorted(window)) for window in windows]
        if not found or any(not window or not 0 <= window[0] <= window[-1] < n for window in found):
            raise InputError(f"windows is {windows!r}; expected lists of layers from 0 to {n - 1}.")
    everything = tuple(range(n))
    return [*(window for window in found if window != everything), everything]


def _name(window: tuple[int, ...]) -> str:
    run = window == tuple(range(window[0], window[-1] + 1))
    if not run:
        return ",".join(map(str, window))
    return str(window[0]) if len(window) == 1 else f"{window[0]}-{window[-1]}"

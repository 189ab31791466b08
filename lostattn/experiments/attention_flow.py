"""Attention flow: cut attention from one part of the prompt to another, layer by layer, and see the answer go.

Where the answer's probability falls when the last position may not look at the image in layers 2 to 4, what it needs
from the image came over there. In the manner of Geva et al. (2023), "Dissecting recall of factual associations in
auto-regressive language models", for the parts of a prompt that holds a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lostattn.answers.choices import choices_of
from lostattn.answers.of_logits import answer_probability
from lostattn.arguments import checked_call
from lostattn.data.question import Question
from lostattn.errors import InputError
from lostattn.experiments.results import UNTOUCHED, Results, without_failed
from lostattn.experiments.running import batches, checked_questions, provenance, row_of
from lostattn.experiments.statistics import Estimate, mean_interval
from lostattn.experiments.units import Given, Keeping, Work, carry_out, settings_of
from lostattn.files import PathLike
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
    journal: PathLike | None = None,
    resume: bool = False,
    on_error: str = "raise",
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
        journal: a folder of its own in which rows are kept as they come; it stays there until you delete it.
        resume: go on with the rows of the journal: what is there is not asked again. Refused where the weights, the
            questions or a setting are others.
        on_error: ``"raise"``: a question that fails ends the run. ``"row"``: it becomes a row that says so (``status``,
            ``error``), which counts as no answer; ``failed`` in the table says how many did.

    An answer of several tokens is taken whole: the edges are then cut at every token of it, as in a generation.

    Returns:
        One row an edge and window: ``edge, window, first, last, n, untouched, probability, change, low, high``.
        ``change`` is the mean over questions of ``(probability - untouched) / untouched``, with its 95 % interval over
        scenes. Its ``attrs`` say where it comes from.

    Raises:
        InputError: no questions, no edge, a window outside the model, or a prompt that lacks a part that an edge names.
    """
    import pandas as pd

    results = flow_questions(model, data, edges, windows, batch_size, progress, remote, journal, resume, on_error)
    rows = []
    for (edge, window), every in results.table.groupby(["edge", "window"], sort=False):
        group, failed = without_failed(every)
        found = _interval(group)
        rows.append(
            {
                "edge": edge,
                "window": window,
                "first": int(every["first"].iloc[0]),
                "last": int(every["last"].iloc[0]),
                "n": len(group),
                **failed,
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
    journal: PathLike | None = None,
    resume: bool = False,
    on_error: str = "raise",
) -> Results:
    """The table behind :func:`flow`: one row a question, edge and window."""
    import pandas as pd

    keeping = Keeping(journal, resume, on_error)
    questions = checked_questions(data, batch_size)
    chosen = dict(EDGES if edges is None else edges)
    if not chosen:
        raise InputError("edges is empty; give at least one, such as {'image -> last': ('last', 'image')}.")
    layers = _windows(windows, model.cfg.n_layers)
    cuts = [(edge, window, KnockOut(*pair, layers=window)) for edge, pair in chosen.items() for window in layers]
    about = provenance(
        model,
        experiment="flow",
        n=len(questions),
        edges={edge: [repr(part) for part in pair] for edge, pair in chosen.items()},
        windows=[list(window) for window in layers],
    )
    parts = list(batches(questions, batch_size))
    settings = settings_of(model, questions, batch_size, about) if journal is not None else {}
    with bar((len(cuts) + 1) * len(parts), f"cutting attention in {model.name}", progress) as passes:
        done = carry_out(_work(model, cuts, passes, remote), parts, keeping, settings, passes)
    order = {edge: i for i, edge in enumerate(chosen)}
    table = pd.DataFrame(_changes(done.rows))
    table = table.sort_values("edge", key=lambda c: c.map(order), kind="stable", ignore_index=True)
    return Results(table, {**about, **done.meta()})


def _interval(group: pandas.DataFrame) -> Estimate:
    if group.empty:  # every question failed
        return Estimate(math.nan, math.nan, math.nan)
    return mean_interval(group["change"].astype(float), clusters=group["scene"])


def _work(model: LVLM, cuts: Sequence[tuple[str, tuple[int, ...], KnockOut]], passes: Any, remote: Remote) -> Work:
    """What is asked: a unit is one cut, the first one none."""
    by_name: dict[str, tuple[str, tuple[int, ...], KnockOut] | None] = {UNTOUCHED: None}
    by_name |= {f"{edge}, layers {_name(window)}": (edge, window, edit) for edge, window, edit in cuts}

    def row(question: Question, unit: str, probability: float | None) -> dict[str, Any]:
        cut = by_name[unit]
        place = {} if cut is None else {"edge": cut[0], "window": _name(cut[1]), "first": cut[1][0], "last": cut[1][-1]}
        return {**row_of(question), **place, "probability": probability}

    def ask(batch: list[Question], units: list[str]) -> Iterator[Given]:
        edits = [None if (cut := by_name[unit]) is None else cut[2] for unit in units]
        for unit, (found, touched) in zip(units, _probabilities(model, batch, edits, passes, remote), strict=True):
            yield unit, [row(question, unit, one) for question, one in zip(batch, found, strict=True)], touched

    return Work(list(by_name), ask, lambda question, unit: [row(question, unit, None)])


def _changes(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of cuts, with what the probability was without: where either failed, there is no change to tell."""
    untouched = {row["id"]: row for row in rows if "edge" not in row}
    for row in rows:
        if "edge" not in row:
            continue
        before, after = untouched[row["id"]]["probability"], row["probability"]
        known = before is not None and after is not None
        found = {
            "untouched": before,
            "probability": after,
            "change": (after - before) / max(before, 1e-12) if known else None,
        }
        status = {name: row[name] for name in ("status", "error") if name in row}
        if status and before is None:
            status = {name: untouched[row["id"]][name] for name in status}
        yield {name: row[name] for name in row if name not in ("probability", *status)} | found | status


def _probabilities(
    model: LVLM, batch: list[Question], edits: Sequence[KnockOut | None], passes: Any, remote: Remote
) -> Iterator[tuple[list[float], Touched | None]]:
    """The probability of each right answer under each edit, and where that acted; an answer of several tokens whole."""
    prompt = model.prompt(batch)
    right = choices_of(model, batch, [[question.answer] for question in batch])
    if any(len(one.tokens[0]) > 1 for one in right):
        for edit in edits:
            scores = score_choices(model, prompt, right, edit, remote)
            passes.update()
            yield scores.value("probability").tolist(), scores.touched
        return
    tokens = torch.tensor([one.tokens[0][0] for one in right])
    later = []
    with Session(model, remote) as session:
        for edit in edits:
            later.append(session.add(replace(hooks_call(model, prompt, (), edit), logits="last")))
            if remote is False:
                passes.update()
                yield answer_probability(later[-1].result(), tokens).tolist(), later[-1].touched
    if remote is not False:
        passes.update(len(later))
        for one in later:
            yield answer_probability(one.result(), tokens).tolist(), one.touched


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

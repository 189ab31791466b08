"""Stochastic attention probing (the paper's RQ4): replace what attention looks at, and ask again.

Every condition answers the same questions as the untouched model, so differences are paired; questions about one
scene hang together, and the intervals and tests know it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lostattn.arguments import checked_call
from lostattn.arguments.kinds import Count
from lostattn.data.question import Question
from lostattn.errors import InputError
from lostattn.experiments.answering import Judge, check_scoring, likeliest_answers, room_by_kind, said_answers
from lostattn.experiments.results import UNTOUCHED, Results, accuracy_summary
from lostattn.experiments.running import batches, checked_questions, provenance, row_of
from lostattn.experiments.units import Given, Keeping, Work, carry_out, settings_of
from lostattn.files import PathLike
from lostattn.interventions.attention import Released, ReplaceAttention
from lostattn.interventions.picture_sources import Complexity, VisionPrior
from lostattn.interventions.sources import Dirichlet, Gaussian, Uniform
from lostattn.model.lvlm import LVLM
from lostattn.plan.intervention import Intervention
from lostattn.run.batches import bar
from lostattn.run.calls import Remote

if TYPE_CHECKING:
    import pandas


@checked_call
def attention_sources(layers: Any = None, queries: Any = "last", seed: int = 0) -> dict[str, Intervention]:
    """Every source of attention in turn over the image tokens, and the paper's released setting, by name."""
    sources = {
        "gaussian": Gaussian(seed=seed),
        "dirichlet": Dirichlet(seed=seed),
        "uniform": Uniform(),
        "vision": VisionPrior(),
        "complexity": Complexity(),
    }
    conditions: dict[str, Intervention] = {
        name: ReplaceAttention(source, layers=layers, queries=queries) for name, source in sources.items()
    }
    conditions["released"] = Released("gaussian_noise", layers=layers, seed=seed, queries=queries)
    return conditions


@checked_call
def probe(
    model: LVLM,
    data: Sequence[Question],
    conditions: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 32,
    max_new_tokens: Count | None = None,
    progress: bool = True,
    remote: Remote = False,
    judge: Judge | None = None,
    scoring: str = "strict",
    journal: PathLike | None = None,
    resume: bool = False,
    on_error: str = "raise",
) -> pandas.DataFrame:
    """Accuracy under each intervention, by kind of question, compared with the untouched run.

    Args:
        model: the model.
        data: questions with answers.
        conditions: interventions by name (default: :func:`attention_sources`). ``"untouched"`` is always among them.
        seeds: a condition that draws at random runs once for each, its seeds shifted by it; others run once.
        batch_size: questions a generation.
        max_new_tokens: an answer that is longer is cut off. None leaves room for the longest choice of the question's
            kind and a sentence around it.
        progress: show a bar.
        remote: ``True`` runs each batch, under every condition, as one job on NDIF. See :mod:`lostattn.remote`.
        judge: your own reading of an answer, ``judge(said, question)``: one of the choices, None where it cannot be
            read, or whether it is right (a bool). Without it answers are read by
            :func:`lostattn.data.scoring.strict`.
        scoring: ``"strict"``: the model answers, and what it says is read. ``"log_probability"``: nothing is said; the
            answer is the choice with the highest whole log-probability (:meth:`lostattn.LVLM.score_answers`), so
            every answer can be read. ``"first_token"``: the one whose first token is likeliest.
        journal: a folder of its own in which rows are kept as they come; it stays there until you delete it.
        resume: go on with the rows of the journal: what is there is not asked again. Refused where the weights, the
            questions or a setting are others.
        on_error: ``"raise"``: a question that fails ends the run. ``"row"``: it becomes a row that says so (``status``,
            ``error``), which counts as no answer; ``failed`` in the table says how many did.

    Returns:
        One row a condition and kind (``"all"`` too): ``condition, kind, n, seeds, accuracy, low, high, unread,
        difference, difference_low, difference_high, p``. ``unread`` is the share of answers that could not be read;
        they count as wrong. Its ``attrs`` say where it comes from.

    Raises:
        InputError: the data set is empty, or a condition cannot be meant on this model; another scoring; with
            ``"first_token"`` choices that begin alike.
    """
    results = probe_questions(
        model, data, conditions, seeds, batch_size, max_new_tokens, progress, remote, judge, scoring,
        journal, resume, on_error,
    )  # fmt: skip
    table = accuracy_summary(results.table)
    table.attrs.update(results.meta)
    return table


@checked_call
def probe_questions(
    model: LVLM,
    data: Sequence[Question],
    conditions: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 32,
    max_new_tokens: Count | None = None,
    progress: bool = True,
    remote: Remote = False,
    judge: Judge | None = None,
    scoring: str = "strict",
    journal: PathLike | None = None,
    resume: bool = False,
    on_error: str = "raise",
) -> Results:
    """The table behind :func:`probe`: one row a question, condition and seed, with what was said."""
    import pandas as pd

    keeping = Keeping(journal, resume, on_error)
    questions = checked_questions(data, batch_size)
    conditions = attention_sources() if conditions is None else conditions
    runs = _runs(conditions, seeds)
    check_scoring(scoring, judge)
    rooms = room_by_kind(model, questions, max_new_tokens) if scoring == "strict" else {}
    parts = _batches(questions, rooms, batch_size)
    about = provenance(
        model,
        experiment="probe",
        n=len(questions),
        conditions={name: edit.to_dict() for name, edit in conditions.items()},
        seeds=list(seeds),
        max_new_tokens=max(rooms.values(), default=None),
        max_new_tokens_by_kind=rooms,
        scoring=scoring if judge is None else getattr(judge, "__name__", type(judge).__name__),
    )
    settings = settings_of(model, questions, batch_size, about) if journal is not None else {}
    with bar(len(runs) * len(parts), f"probing {model.name}", progress) as passes:
        work = _work(model, runs, rooms, judge, scoring, passes, remote)
        done = carry_out(work, parts, keeping, settings, passes)
    order = {name: i for i, name in enumerate([UNTOUCHED, *conditions])}
    table = pd.DataFrame(done.rows)
    table = table.sort_values("condition", key=lambda c: c.map(order), kind="stable", ignore_index=True)
    return Results(table, {**about, **done.meta()})


def _work(
    model: LVLM,
    runs: Sequence[tuple[str, int, Intervention | None]],
    rooms: Mapping[str, int],
    judge: Judge | None,
    scoring: str,
    passes: Any,
    remote: Remote,
) -> Work:
    """What is asked: a unit is one condition under one seed."""
    by_name = {json.dumps([name, seed]): (name, seed, edit) for name, seed, edit in runs}

    def row(question: Question, unit: str, answered: dict[str, Any]) -> dict[str, Any]:
        name, seed, _ = by_name[unit]
        return {"condition": name, "seed": seed, **row_of(question), **answered}

    def ask(batch: list[Question], units: list[str]) -> Iterator[Given]:
        edits = [by_name[unit][2] for unit in units]
        if scoring == "strict":
            found = said_answers(model, batch, edits, rooms[batch[0].kind], judge, passes, remote)
        else:
            found = likeliest_answers(model, batch, edits, scoring, passes, remote)
        for unit, (answers, touched) in zip(units, found, strict=True):
            yield unit, [row(question, unit, one) for question, one in zip(batch, answers, strict=True)], touched

    def without(question: Question, unit: str) -> list[dict[str, Any]]:
        nothing = {"said": None, "answer": question.answer, "read": None, "correct": None, "unread": None}
        return [row(question, unit, nothing if scoring == "strict" else {**nothing, "probability": None})]

    return Work(list(by_name), ask, without, lambda unit: by_name[unit][0])


def _batches(questions: Sequence[Question], rooms: Mapping[str, int], size: int) -> list[list[Question]]:
    """Batches of questions whose answers have equal room, so that no answer is cut by what its batch mates need."""
    by_room: dict[int, list[Question]] = {}
    for question in questions:
        by_room.setdefault(rooms.get(question.kind, 0), []).append(question)
    return [batch for _, own in sorted(by_room.items()) for batch in batches(own, size)]


def _runs(conditions: Mapping[str, Any], seeds: Sequence[int]) -> list[tuple[str, int, Intervention | None]]:
    """``(condition, seed, intervention)``; what is not random runs under the first seed alone."""
    if not seeds:
        raise InputError("seeds is empty; give at least one.")
    if not isinstance(conditions, Mapping):
        raise InputError(
            f"conditions is {type(conditions).__name__}; expected interventions by name: {{'noise': edit}}."
        )
    if UNTOUCHED in conditions:
        raise InputError(f"{UNTOUCHED!r} is the run without an intervention and always there; name yours otherwise.")
    runs: list[tuple[str, int, Intervention | None]] = [(UNTOUCHED, seeds[0], None)]
    for name, edit in conditions.items():
        if not isinstance(edit, Intervention):
            raise InputError(f"condition {name!r} is {type(edit).__name__}; expected an intervention.")
        random = edit.with_seed(1) != edit
        runs += [(name, seed, edit.with_seed(seed)) for seed in (seeds if random else seeds[:1])]
    return runs

"""Stochastic attention probing (the paper's RQ4): replace what attention looks at, and ask again.

Every condition answers the same questions as the untouched model, so differences are paired; questions about one
scene hang together, and the intervals and tests know it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lostattn.data.question import Question
from lostattn.data.scoring import read
from lostattn.errors import InputError
from lostattn.experiments.results import UNTOUCHED, Results, accuracy_summary
from lostattn.experiments.running import Acted, batches, checked_questions, provenance, row_of
from lostattn.interventions.attention import Released, ReplaceAttention
from lostattn.interventions.picture_sources import Complexity, VisionPrior
from lostattn.interventions.sources import Dirichlet, Gaussian, Uniform
from lostattn.model.lvlm import LVLM
from lostattn.plan.intervention import Intervention
from lostattn.remote.session import Session
from lostattn.run.batches import bar
from lostattn.run.calls import Remote

if TYPE_CHECKING:
    import pandas

Judge = Callable[[str, Question], str | bool | None]
SENTENCE = 12
"""How many tokens an answer may have beside the choice itself."""


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


def probe(
    model: LVLM,
    data: Sequence[Question],
    conditions: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 32,
    max_new_tokens: int | None = None,
    progress: bool = True,
    remote: Remote = False,
    judge: Judge | None = None,
) -> pandas.DataFrame:
    """Accuracy under each intervention, by kind of question, compared with the untouched run.

    Args:
        model: the model.
        data: questions with answers.
        conditions: interventions by name (default: :func:`attention_sources`). ``"untouched"`` is always among them.
        seeds: a condition that draws at random runs once for each, its seeds shifted by it; others run once.
        batch_size: questions a generation.
        max_new_tokens: an answer that is longer is cut off. None leaves room for the longest choice and a sentence
            around it.
        progress: show a bar.
        remote: ``True`` runs each batch, under every condition, as one job on NDIF. See :mod:`lostattn.remote`.
        judge: your own reading of an answer, ``judge(said, question)``: one of the choices, None where it cannot be
            read, or whether it is right (a bool). Without it answers are read by
            :func:`lostattn.data.scoring.strict`.

    Returns:
        One row a condition and kind (``"all"`` too): ``condition, kind, n, seeds, accuracy, low, high, unread,
        difference, difference_low, difference_high, p``. ``unread`` is the share of answers that could not be read;
        they count as wrong. Its ``attrs`` say where it comes from.

    Raises:
        InputError: the data set is empty, or a condition cannot be meant on this model.
    """
    results = probe_questions(model, data, conditions, seeds, batch_size, max_new_tokens, progress, remote, judge)
    table = accuracy_summary(results.table)
    table.attrs.update(results.meta)
    return table


def probe_questions(
    model: LVLM,
    data: Sequence[Question],
    conditions: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 32,
    max_new_tokens: int | None = None,
    progress: bool = True,
    remote: Remote = False,
    judge: Judge | None = None,
) -> Results:
    """The table behind :func:`probe`: one row a question, condition and seed, with what was said."""
    import pandas as pd

    questions = checked_questions(data, batch_size)
    conditions = attention_sources() if conditions is None else conditions
    runs = _runs(conditions, seeds)
    if judge is not None and not callable(judge):
        raise InputError(f"judge is {judge!r}; expected a function of what was said and the question.")
    room = _room(model, questions) if max_new_tokens is None else max_new_tokens
    n_batches = -(-len(questions) // batch_size)
    rows: list[dict[str, Any]] = []
    acted = Acted()
    with bar(len(runs) * n_batches, f"probing {model.name}", progress) as passes:
        for batch in batches(questions, batch_size):
            prompt = model.prompt(batch)
            answers = []
            with Session(model, remote) as session:
                for _, _, edit in runs:
                    answers.append(session.generate(prompt, edit, max_new_tokens=room))
                    if remote is False:
                        passes.update()
            if remote is not False:
                passes.update(len(runs))
            for (name, seed, _), later in zip(runs, answers, strict=True):
                acted.add(name, later.touched, len(batch))
                for question, text in zip(batch, later.result().text, strict=True):
                    rows.append({"condition": name, "seed": seed, **row_of(question), **judged(text, question, judge)})
    order = {name: i for i, name in enumerate([UNTOUCHED, *conditions])}
    table = pd.DataFrame(rows).sort_values("condition", key=lambda c: c.map(order), kind="stable", ignore_index=True)
    meta = provenance(
        model,
        experiment="probe",
        n=len(questions),
        conditions={name: edit.to_dict() for name, edit in conditions.items()},
        seeds=list(seeds),
        max_new_tokens=room,
        scoring="strict" if judge is None else getattr(judge, "__name__", type(judge).__name__),
        **acted.meta(),
    )
    return Results(table, meta)


def judged(said: str, question: Question, judge: Judge | None = None) -> dict[str, Any]:
    """What a row tells of an answer: ``said`` (raw), the right ``answer``, what was ``read``, ``correct``, ``unread``.

    Raises:
        InputError: the judge gives neither a choice of the question, nor None, nor a bool.
    """
    found = read("strict", said, question)[0] if judge is None else judge(said, question)
    row = {"said": said, "answer": question.answer}
    if isinstance(found, bool):
        return {**row, "read": None, "correct": found, "unread": False}
    if found is not None and found not in question.choices:
        raise InputError(
            f"judge gave {found!r} for question {question.id!r}; expected one of its choices {question.choices}, None "
            "where the answer cannot be read, or True or False."
        )
    return {**row, "read": found, "correct": found == question.answer, "unread": found is None}


def _room(model: LVLM, questions: Sequence[Question]) -> int:
    """How many tokens an answer may have: the longest choice (or lettered option), and a sentence around it."""
    texts = {choice for question in questions for choice in question.choices}
    texts |= {line for q in questions if all(len(c) == 1 for c in q.choices) for line in q.text.splitlines()[1:]}
    tokenizer = model.processor.tokenizer
    return SENTENCE + max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)


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

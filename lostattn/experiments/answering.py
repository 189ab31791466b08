"""What a model answers to a batch of questions: what it said, as it is read, or the choice that it finds likeliest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lostattn.answers.choices import choices_of
from lostattn.data.question import Question
from lostattn.data.scoring import read, right_answers
from lostattn.errors import InputError
from lostattn.model.answer_scores import AnswerScores, score_choices
from lostattn.model.lvlm import LVLM
from lostattn.plan.intervention import Intervention
from lostattn.plan.touch_record import Touched
from lostattn.remote.session import Later, Session
from lostattn.run.calls import Remote

Judge = Callable[[str, Question], str | bool | None]
Answered = tuple[list[dict[str, Any]], Touched | None]
"""A row for each question, and where the edits acted."""
SENTENCE = 12
"""How many tokens an answer may have beside the choice itself."""
SCORINGS = ("strict", "log_probability", "first_token")


def check_scoring(scoring: str, judge: Judge | None) -> None:
    """Refuse another word for the scoring, and a judge that would be given nothing.

    Raises:
        InputError: as said.
    """
    if scoring not in SCORINGS:
        raise InputError(f"scoring is {scoring!r}; expected one of {', '.join(map(repr, SCORINGS))}.")
    if judge is not None and not callable(judge):
        raise InputError(f"judge is {judge!r}; expected a function of what was said and the question.")
    if judge is not None and scoring != "strict":
        raise InputError(f"judge= reads what was said, and with scoring={scoring!r} nothing is; leave one of them out.")


def room_by_kind(model: LVLM, questions: Sequence[Question], asked: int | None = None) -> dict[str, int]:
    """How many tokens an answer to each kind of question may have.

    The longest choice (or lettered option) of the kind, and a sentence around it; or as many as are asked for.
    """
    texts: dict[str, set[str]] = {}
    for question in questions:
        own = texts.setdefault(question.kind, set())
        own.update(question.choices or right_answers(question))
        if question.choices and all(len(choice) == 1 for choice in question.choices):
            own.update(question.text.splitlines()[1:])
    if asked is not None:
        return dict.fromkeys(texts, asked)
    tokenizer = model.processor.tokenizer

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return {kind: SENTENCE + max(map(length, own)) for kind, own in texts.items()}


def said_answers(
    model: LVLM,
    batch: list[Question],
    edits: Sequence[Intervention | None],
    room: int,
    judge: Judge | None,
    passes: Any,
    remote: Remote,
) -> Iterator[Answered]:
    """What is said under each edit in turn, read; ``passes`` is a bar that counts the generations."""

    def read_in(one: Later) -> Answered:
        texts = zip(batch, one.result().text, strict=True)
        return [judged(text, question, judge) for question, text in texts], one.touched

    prompt = model.prompt(batch)
    later = []
    with Session(model, remote) as session:
        for edit in edits:
            later.append(session.generate(prompt, edit, max_new_tokens=room))
            if remote is False:
                passes.update()
                yield read_in(later[-1])
    if remote is not False:
        passes.update(len(edits))
        yield from map(read_in, later)


def likeliest_answers(
    model: LVLM,
    batch: list[Question],
    edits: Sequence[Intervention | None],
    scoring: str,
    passes: Any,
    remote: Remote,
) -> Iterator[Answered]:
    """The likeliest choice under each edit, by its whole log-probability or by that of its first token."""
    prompt, choices = model.prompt(batch), choices_of(model, batch)
    if scoring == "first_token":
        choices = [own.first_tokens() for own in choices]
    for edit in edits:
        scores = score_choices(model, prompt, choices, edit, remote)
        passes.update()
        yield _rows(batch, scores), scores.touched


def _rows(batch: list[Question], scores: AnswerScores) -> list[dict[str, Any]]:
    probability, correct = scores.value("probability").tolist(), scores.correct.tolist()
    return [
        {
            "said": best,
            "answer": question.answer,
            "read": best,
            "correct": bool(is_right),
            "unread": False,
            "probability": p,
        }
        for question, best, is_right, p in zip(batch, scores.best, correct, probability, strict=True)
    ]


def judged(said: str, question: Question, judge: Judge | None = None) -> dict[str, Any]:
    """What a row tells of an answer: ``said`` (raw), the right ``answer``, what was ``read``, ``correct``, ``unread``.

    Raises:
        InputError: the judge gives neither a choice of the question, nor None, nor a bool.
    """
    found = read("strict", said, question)[0] if judge is None else judge(said, question)
    row = {"said": said, "answer": question.answer}
    if isinstance(found, bool):
        return {**row, "read": None, "correct": found, "unread": False}
    if found is not None and question.choices and found not in question.choices:
        raise InputError(
            f"judge gave {found!r} for question {question.id!r}; expected one of its choices {question.choices}, None "
            "where the answer cannot be read, or True or False."
        )
    return {**row, "read": found, "correct": found in right_answers(question), "unread": found is None}

"""One schema for all questions, and the sequence that holds them."""

from __future__ import annotations

import base64
import html
import io
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from PIL import Image

from lostattn.arguments import check_fields, checked_call
from lostattn.data.folder import write_rows
from lostattn.data.scene import Drawn
from lostattn.errors import InputError, nearest
from lostattn.pictures.loading import load_picture
from lostattn.pictures.stored import StoredPictures

_SHOWN = 12


class _Nothing(dict[str, Any]):
    """An empty dict that may stand as a default: every question gets a dict of its own."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_NOTHING = _Nothing()


@checked_call
@dataclass(frozen=True)
class Question:
    """A question about one or more pictures, with its right answer.

    Attributes:
        id: unique within its data set.
        text: the question alone, without chat template or image placeholder. Multiple choice holds its
            lettered `Options:` and the request to answer with the letter.
        images: the pictures, in the order in which they are shown. They are read as `lostattn.pictures.load_picture`
            does it, of any mode and orientation, and held upright and as RGB. Those of a public benchmark stay the
            files that they are until they are looked at.
        answer: the right answer, one of `choices`.
        choices: the admissible answers; none where the question is open.
        kind: what sort of question it is.
        group: the scene(s) it is about (its cluster); questions that share one are not independent, so bootstraps draw
            groups.
        scenes: what each picture was drawn from, where the bundled generator drew it (folders do not keep it);
            it tells `lostattn.patching.remove_object` what to take out.
        answers: every right answer, where there are several; `answer` is among them.
        options: the texts of lettered choices, one for each.
        together: the sets of questions of which all must be right, `{"pair": "VD_chart_0_1"}`: what sort of set, and
            its name.
        row: the row's own id in the source.
        facts: what else the source says, as JSON: `benchmark`, `split`, `revision`, `answer_type`, …
        trouble: why it cannot be asked, where its pictures could not be read; see `lostattn.data.load(on_error=)`.
    """

    id: str
    text: str
    images: tuple[Image.Image, ...] | StoredPictures
    answer: str
    choices: tuple[str, ...]
    kind: str
    group: str
    scenes: tuple[Drawn, ...] = field(default=(), repr=False, compare=False)
    answers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    together: Mapping[str, str] = _NOTHING
    row: str = ""
    facts: Mapping[str, Any] = _NOTHING
    trouble: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name in ("id", "text", "answer", "kind", "group", "row"):
            if not isinstance(value := getattr(self, name), str):
                raise InputError(f"{name} of a question is {reprlib.repr(value)}; expected text.")
        self._check_lists()
        check_fields(self, "scenes", "trouble")
        if not isinstance(self.images, StoredPictures):
            places = (f"image {k} of question {self.id!r}" for k in range(len(self.images)))
            object.__setattr__(self, "images", tuple(map(load_picture, self.images, places)))
        for name in ("together", "facts"):
            if not isinstance(value := getattr(self, name), Mapping):
                raise InputError(f"{name} of question {self.id!r} is {reprlib.repr(value)}; expected a dict.")
            object.__setattr__(self, name, dict(value))
        if not all(isinstance(one, str) for pair in self.together.items() for one in pair):
            raise InputError(
                f"together of question {self.id!r} is {reprlib.repr(self.together)}; expected texts by texts: the "
                "name of a set by its sort, {'pair': 'VD_chart_0_1'}."
            )
        for answer in (self.answer, *self.answers):
            if self.choices and answer not in self.choices:
                raise InputError(
                    f"Question {self.id!r}: the answer {answer!r} is none of the choices {self.choices}. "
                    "Add it to `choices`, or leave them empty where the question is open."
                )
        if self.answers and self.answer not in self.answers:
            raise InputError(f"Question {self.id!r}: the answer {self.answer!r} is none of its answers {self.answers}.")
        if self.options and len(self.options) != len(self.choices):
            raise InputError(
                f"Question {self.id!r} has {len(self.options)} options for {len(self.choices)} choices; give one each."
            )

    def _check_lists(self) -> None:
        lists = (("choices", "texts"), ("answers", "texts"), ("options", "texts"), ("images", "pictures"))
        for name, inside in lists:
            value = getattr(self, name)
            if isinstance(value, StoredPictures) and name == "images":
                continue
            if not isinstance(value, tuple | list):
                raise InputError(
                    f"{name} of question {self.id!r} is {reprlib.repr(value)}; expected a tuple of {inside}."
                )
            object.__setattr__(self, name, tuple(value))
            strange = [one for one in value if inside == "texts" and not isinstance(one, str)]
            if strange:
                one = {"choices": "A choice", "answers": "An answer", "options": "An option"}[name]
                raise InputError(f"{one} of question {self.id!r} is {reprlib.repr(strange[0])}; expected text.")

    @property
    def cluster(self) -> str:
        """What the question shares with others, so that they are not independent: its `group`."""
        return self.group

    def __repr__(self) -> str:
        sizes = ", ".join(f"{i.width}x{i.height}" for i in self.images)
        return f"Question({self.id!r}, {self.kind}, {self.text!r} -> {self.answer!r}, images: {sizes or 'none'})"

    def _repr_html_(self) -> str:
        return Questions([self])._repr_html_()


@checked_call
class Questions(Sequence[Question]):
    """A sequence of questions; a slice of it is one again.

    >>> Questions([])
    Questions(0)
    """

    def __init__(self, questions: Iterable[Question], name: str = "") -> None:
        """`name` says where they come from, for tables and figures."""
        self._questions = tuple(questions)
        self.name = name
        if strangers := {type(q).__name__ for q in self._questions if not isinstance(q, Question)}:
            raise InputError(f"Questions holds Question objects; got {', '.join(sorted(strangers))}.")
        counts = Counter(q.id for q in self._questions)
        if twice := [i for i, n in counts.items() if n > 1]:
            raise InputError(f"Question ids must be unique; {twice[0]!r} comes {counts[twice[0]]} times.")

    def __len__(self) -> int:
        return len(self._questions)

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> Questions: ...
    def __getitem__(self, index: int | slice) -> Question | Questions:
        if isinstance(index, slice):
            return Questions(self._questions[index], self.name)
        return self._questions[index]

    def __iter__(self) -> Iterator[Question]:
        return iter(self._questions)

    def __eq__(self, other: object) -> bool:
        """Equal questions in the same order; pictures are compared by their pixels."""
        return isinstance(other, Questions) and self._questions == other._questions

    def __hash__(self) -> int:
        return hash(tuple(q.id for q in self._questions))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that occur, in order of first appearance."""
        return tuple(dict.fromkeys(q.kind for q in self._questions))

    def only(self, *kinds: str) -> Questions:
        """The questions of these kinds.

        Raises:
            InputError: no question is of such a kind.
        """
        for kind in kinds:
            if kind not in self.kinds:
                raise InputError(
                    f"There is no question of kind {kind!r} here; "
                    f"the kinds are {', '.join(self.kinds) or 'none'}.{nearest(kind, self.kinds)}"
                )
        return Questions((q for q in self._questions if q.kind in kinds), self.name)

    def save(self, folder: str | Path) -> Path:
        """Write `questions.jsonl` and the pictures into a folder, which `lostattn.data.load` reads."""
        return write_rows(((_fields(q), q.images) for q in self), folder)

    def __repr__(self) -> str:
        counts = Counter(q.kind for q in self._questions)
        inside = ", ".join(f"{kind}: {n}" for kind, n in counts.items())
        of = f" of {self.name}" if self.name else ""
        return f"Questions({len(self)}{of}{'; ' + inside if inside else ''})"

    def _repr_html_(self) -> str:
        rows = "".join(_row(q) for q in self._questions[:_SHOWN])
        more = f"<p>… and {len(self) - _SHOWN} more.</p>" if len(self) > _SHOWN else ""
        head = "".join(f"<th>{h}</th>" for h in ("pictures", "kind", "question", "answer", "id"))
        return f"<p>{html.escape(repr(self))}</p><table><tr>{head}</tr>{rows}</table>{more}"


def _fields(question: Question) -> dict[str, Any]:
    """What a folder keeps of a question beside its pictures."""
    fields = {name: getattr(question, name) for name in ("id", "text", "answer", "choices", "kind", "group")}
    more = {name: getattr(question, name) for name in ("answers", "options", "together", "row", "facts")}
    return {**fields, **{name: value for name, value in more.items() if value}}


def _row(question: Question) -> str:
    pictures = "".join(_thumbnail(i) for i in question.images)
    text = html.escape(question.text).replace("\n", "<br>")
    cells = (
        pictures,
        html.escape(question.kind),
        text,
        html.escape(question.answer),
        html.escape(question.id),
    )
    return "<tr>" + "".join(f"<td style='text-align:left'>{c}</td>" for c in cells) + "</tr>"


def _thumbnail(image: Image.Image, edge: int = 72) -> str:
    small = image.convert("RGB")
    small.thumbnail((edge, edge))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img src='data:image/png;base64,{data}' alt='{image.width}x{image.height} picture'> "

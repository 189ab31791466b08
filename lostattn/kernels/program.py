"""The program of a pass: what the planner writes and the walker carries out, as plain dicts that travel.

A program is a list of events in forward order; an event is one place of the pass, an action what is done there. They
are dicts and stay dicts (a server rebuilds them without this package); the types say what each of them holds, so that
the two sides are checked against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypedDict

# A mask [batch, prompt], and whether generated tokens belong to it; None with a mask over cross-attention's own keys.
# Of keys, a third may be a mask over an encoder's that stand behind the positions.
Positions: TypeAlias = tuple[Any, bool | None] | tuple[Any, bool | None, Any]
View: TypeAlias = tuple[Any, ...]  # ("plain",), ("heads", n), ("fused", part, n) or ("between", name of a held stream)
Kernel: TypeAlias = Callable[..., Any]


class BoundEdit(TypedDict):
    """An edit with all that it needs: what runs, at which steps of a generation (first, end), and on which cells."""

    kernel: Kernel
    params: dict[str, Any]
    steps: tuple[int, int | None]
    queries: Positions | None
    keys: Positions | None
    heads: tuple[int, ...] | None
    reads_input: bool
    number: int | None  # by which what it changed is counted; None for what is no part of an intervention


class Tap(TypedDict):
    """Keep a value under a name."""

    verb: Literal["tap"]
    name: str
    view: View


class ByHead(TypedDict):
    """Keep what each head makes of z, by the output map itself."""

    verb: Literal["by_head"]
    name: str
    view: View


class Hold(TypedDict):
    """Remember a value until a later place of the same pass needs it."""

    verb: Literal["hold"]
    name: str
    view: View


class Reduce(TypedDict):
    """Keep what a function makes of the values that are held."""

    verb: Literal["reduce"]
    name: str
    kernel: Kernel
    params: dict[str, Any]


class AddBehind(TypedDict):
    """Add what an edit behind a gate changed, where the layer ends."""

    verb: Literal["add_behind"]
    held: str


class EditValue(BoundEdit):
    """Replace a value."""

    verb: Literal["edit"]
    view: View


class EditBehind(BoundEdit):
    """Edit the stream at its next reader, behind a gate; the difference is held for the end of the layer."""

    verb: Literal["edit_behind"]
    held: str


class EditSum(BoundEdit):
    """Edit the stream at the place where an update, times a factor, is added to it."""

    verb: Literal["edit_sum"]
    held: str
    factor: float


Action: TypeAlias = Tap | ByHead | Hold | Reduce | AddBehind | EditValue | EditBehind | EditSum
InputAction: TypeAlias = Tap | EditValue  # of the queries and keys that an attention call is given


class TensorEvent(TypedDict):
    """A module's input or output."""

    kind: Literal["tensor"]
    path: str
    port: str  # "input" | "output"
    actions: list[Action]
    needs_input: bool
    once: bool  # at prefill only
    elsewhere: bool  # its positions are another sequence's


class CallInputs(TypedDict):
    """What is done to the queries and keys of an attention call, and whether any of it edits them."""

    query: list[InputAction]
    key: list[InputAction]
    edits: bool


class Boundary(TypedDict):
    """A call of the attention interface: edits of scores and pattern, taps as (name, "scores" | "pattern")."""

    path: str
    operation: str
    inputs: CallInputs | None
    scores: list[BoundEdit]
    patterns: list[BoundEdit]
    taps: list[tuple[str, str]]
    geometry: str | None  # under which name mask, scaling and the rest are kept
    proof: tuple[str, int] | None  # for the self-test: a name, and how many rows of the call to recompute
    out: str
    once: bool
    heads: int
    kv_heads: int


class AttentionEvent(Boundary):
    """Attention that is called once in a pass."""

    kind: Literal["attention"]


class WindowsEvent(Boundary):
    """A tower's attention that is called once a window."""

    kind: Literal["windows"]


class LengthsEvent(TypedDict):
    """How a tower cuts its sequence into windows, read before the first of them."""

    kind: Literal["lengths"]
    path: str
    once: bool


class SkipEvent(TypedDict):
    """A module that is left out: zeros stand for what it would give."""

    kind: Literal["skip"]
    path: str
    once: bool


Event: TypeAlias = SkipEvent | TensorEvent | AttentionEvent | WindowsEvent | LengthsEvent
Program: TypeAlias = list[Event]

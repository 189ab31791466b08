"""Path patching: what one set of points tells another directly, with everything in between held still.

From Wang et al. (2022), "Interpretability in the wild": the senders' clean values are put into the corrupted run while
every head (and, where asked, every FFN) keeps its corrupted output, so that the receivers hear the senders alone; what
the receivers then hold is put into a corrupted run of its own, in which everything after them is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.interventions.patch_rows import point_names
from lostattn.interventions.patching import Patch
from lostattn.model.lvlm import LVLM
from lostattn.patching.copies import Metric, logits_and_touched, metric_values
from lostattn.patching.sweeps import both_runs, same_number, single
from lostattn.plan.intervention import Composition, Intervention
from lostattn.plan.touch_record import Touched
from lostattn.prompt.batch import Prompt
from lostattn.run.calls import Remote
from lostattn.run.make_calls import hooks_call

if TYPE_CHECKING:
    import pandas


Node = tuple[Any, ...] | str
"""``(point, layer)``, or ``(point, layer, head)``."""


@checked_call
def path_patch(
    model: LVLM,
    clean: Prompt | Any,
    corrupted: Prompt | Any,
    metric: Metric,
    senders: Sequence[Node],
    receivers: Sequence[Node],
    positions: Any = "all",
    receiver_positions: Any = "all",
    through_mlps: bool = True,
    remote: Remote = False,
) -> pandas.DataFrame:
    """The effect of the paths from some points to others, and of nothing else.

    Args:
        model: the model.
        clean: the prompt (or pairs: a batch) whose values the senders take.
        corrupted: the one that all else comes from; of the same layout.
        metric: as in :func:`lostattn.patching.sweep`.
        senders: nodes whose clean value is put in: ``("z", 1, 3)``, ``("mlp_out", 0)``, ``("resid_pre", 0)``.
        receivers: nodes that hear it: ``("q", 3, 1)``, ``("v", 3, 0)``, ``("resid_post", -1)`` for the logits. Of ``k``
            and ``v``, heads are key/value heads.
        positions: where the senders are patched.
        receiver_positions: where the receivers listen.
        through_mlps: let the FFNs in between answer to what the senders say (they are held still otherwise).
        remote: as in :meth:`lostattn.LVLM.run_with_cache`.

    Returns:
        One row an item: ``item, clean, corrupted, value, effect, normalised``. Its ``attrs`` say how many cells were
        changed at each sender and receiver (``touched``), and at which of them none (``acted_nowhere``).

    Raises:
        InputError: no senders or receivers, a receiver that lies before every sender, or prompts of unequal layout.
    """
    import pandas as pd

    clean, corrupted = single(model._prompted(clean)), single(model._prompted(corrupted))
    same_number(clean, corrupted)
    sent = [_named(model, node, "senders") for node in senders]
    heard = [_named(model, node, "receivers") for node in receivers]
    _check_order(model, sent, heard)
    still = point_names(model.sites, "z") + ([] if through_mlps else point_names(model.sites, "mlp_out"))
    said = [name for name, _ in sent]
    (clean_logits, source), (corrupted_logits, base) = both_runs(model, clean, said, corrupted, still, remote)
    speaking: Intervention = Patch.of(base, still)
    for name, head in sent:  # later edits of a point win: a sender speaks although its layer is held still
        speaking = speaking + Patch.of(source, name, positions=positions, heads=head)
    _, held = model.run_with_cache(corrupted, [name for name, _ in heard], speaking, remote=remote)
    listening = tuple(Patch.of(held, name, positions=receiver_positions, heads=head) for name, head in heard)
    logits, heeded = logits_and_touched(model, hooks_call(model, corrupted, (), Composition(listening)), remote)
    ends = metric_values(metric, clean_logits), metric_values(metric, corrupted_logits), metric_values(metric, logits)
    by_item = len(ends[0]) > 1 or len(clean) == 1
    found = zip(*(end.tolist() for end in ends), strict=True)
    table = pd.DataFrame([_row(i if by_item else -1, *values) for i, values in enumerate(found)])
    said_by, heard_by = _changed(held.touched, sent), _changed(heeded, heard)
    nowhere = [name for name, cells in (said_by | heard_by).items() if not cells]
    table.attrs.update(touched={"senders": said_by, "receivers": heard_by}, acted_nowhere=nowhere)
    return table


def _check_order(model: LVLM, sent: Sequence[tuple[str, int | None]], heard: Sequence[tuple[str, int | None]]) -> None:
    if not sent or not heard:
        raise InputError(f"{len(sent)} senders and {len(heard)} receivers; give at least one of each.")
    order = {name: i for i, name in enumerate(model.sites.names)}
    first = min(order[name] for name, _ in sent)
    early = next((name for name, _ in heard if order[name] <= first), None)
    if early is not None:
        raise InputError(f"the receiver {early!r} comes before every sender, so no path leads to it.")


def _row(item: int, clean: float, corrupted: float, value: float) -> dict[str, Any]:
    """One item: its metric in the two runs and in the patched one, and the share of the way between that is gone."""
    effect, span = value - corrupted, clean - corrupted
    share = effect / span if span else float("nan")
    return dict(item=item, clean=clean, corrupted=corrupted, value=value, effect=effect, normalised=share)


def _changed(touched: Touched | None, nodes: Sequence[tuple[str, int | None]]) -> dict[str, int]:
    """How many cells were changed at each node; each is one edit, and they are the last edits of their pass."""
    cells = [0] * len(nodes) if touched is None else touched.by_edit[-len(nodes) :]
    names = [name if head is None else f"{name}, head {head}" for name, head in nodes]
    return dict(zip(names, cells, strict=True))


def _named(model: LVLM, node: Node, what: str) -> tuple[str, int | None]:
    """The canonical name of a node, and its head."""
    if not isinstance(node, tuple) or len(node) not in (2, 3) or not isinstance(node[0], str):
        raise InputError(f"{what} holds {node!r}; expected (point, layer) or (point, layer, head).")
    (name,) = point_names(model.sites, node[0], node[1])
    return name, node[2] if len(node) == 3 else None

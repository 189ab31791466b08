"""Who does what (the paper's RQ3, Table 1): what attention and the FFN add to the residual stream.

For every layer and question: ΔS, ΔD, RID and MixIG of the attention update and of the FFN update, beside three
references. *Noise Δ* puts Gaussian noise of the same moments in the place of the attention update; *Noise QKV* puts
Gaussian weights of the same moments in the place of the q, k and v maps; *RoPE* compares the stream after attention
with what it is when that attention does not see rotary positions (ε_RoPE), the tolerance to read RIDs by.
Each reference acts in one layer at a time, on the stream that the untouched model brings there.

What a decoder adds between its layers (deepstack) is an update of its own. In parallel blocks, where attention and FFN
read the same stream, each update is judged against that stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lostattn.arguments import checked_call
from lostattn.data.question import Question
from lostattn.errors import InputError
from lostattn.experiments.references import layers_stand_alone, own_and_references
from lostattn.experiments.results import Results, mean_summary
from lostattn.experiments.running import batches, checked_questions, provenance, row_of
from lostattn.experiments.units import Given, Keeping, Work, carry_out, settings_of
from lostattn.files import PathLike
from lostattn.interventions.noise import NoiseUpdate, NoiseWeights
from lostattn.interventions.rotary import RemoveRotary
from lostattn.model.lvlm import LVLM
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Reduction
from lostattn.points.stream_updates import StreamUpdate, find_update, is_difference, layer_updates
from lostattn.prompt.batch import Prompt
from lostattn.reductions import Remembered, State, Sum, between, update_metrics, updates_of
from lostattn.remote.session import Later, Session
from lostattn.run.batches import bar
from lostattn.run.calls import Remote

if TYPE_CHECKING:
    import pandas
    from torch import Tensor


OWN = "own"
METRICS = ("delta_s", "delta_d", "column_innovation", "row_innovation", "rid", "mixig")
CONTROLS = ("noise_delta", "noise_qkv", "rope")
NAMES = {"attn": "attention", "cross_attn": "cross_attention", "mlp": "ffn"}


@checked_call
def decouple(
    model: LVLM,
    data: Sequence[Question],
    by: str = "layer",
    controls: Sequence[str] = CONTROLS,
    convention: str = "paper",
    tol: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
    remote: Remote = False,
    journal: PathLike | None = None,
    resume: bool = False,
    on_error: str = "raise",
) -> pandas.DataFrame:
    """Measure what every update does to the stream, averaged over questions.

    Args:
        model: the model.
        data: questions, as ``la.data.load`` gives them.
        by: ``"layer"`` for one row a layer and update, ``"model"`` for one row an update over all layers.
        controls: which references to run beside the model's own updates, of ``"noise_delta"``, ``"noise_qkv"`` and
            ``"rope"``; each costs the attentions of one pass a batch (with ``remote=``, a pass a layer and batch).
        convention, tol: of the metrics; see :func:`lostattn.metrics.rid`.
        seed: of the noise.
        batch_size: questions a pass.
        progress: show a bar.
        remote: ``True`` runs each batch as one job on NDIF, where the metrics are taken; numbers come back. See
            :mod:`lostattn.remote`.
        journal, resume, on_error: as in :func:`lostattn.experiments.probe`.

    Returns:
        Columns ``layer`` (by layer), ``update`` (``attention``, ``ffn``, ``cross_attention`` where that stands between
        them, ``between`` where something is added after the layer, and the controls, in layers that make a call of
        attention), ``n``, and for each of
        ``delta_s``, ``delta_d``, ``column_innovation``, ``row_innovation``, ``rid`` and ``mixig`` the mean with a 95 %
        interval over questions, clustered by scene (``…_low``, ``…_high``). Its ``attrs`` say where it comes from, and
        by reference and layer where its edits acted (``touched``) and which acted nowhere (``acted_nowhere``).

    Raises:
        InputError: the data set is empty, an argument is none of those named, or the model has layers whose attention
            and FFN cannot be told apart.
    """
    if by not in ("layer", "model"):
        raise InputError(f"by is {by!r}; expected 'layer' or 'model'.")
    results = decouple_questions(
        model, data, controls, convention, tol, seed, batch_size, progress, remote,
        journal, resume, on_error,
    )  # fmt: skip
    columns = ["layer", "update"] if by == "layer" else ["update"]
    table = mean_summary(results.table, METRICS, columns, seed=seed)
    table.attrs.update(results.meta)
    return table


@checked_call
def decouple_questions(
    model: LVLM,
    data: Sequence[Question],
    controls: Sequence[str] = CONTROLS,
    convention: str = "paper",
    tol: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
    remote: Remote = False,
    journal: PathLike | None = None,
    resume: bool = False,
    on_error: str = "raise",
) -> Results:
    """The table behind :func:`decouple`: one row a question, layer and update."""
    import pandas as pd

    keeping = Keeping(journal, resume, on_error)
    questions = checked_questions(data, batch_size)
    unknown = [c for c in controls if c not in CONTROLS]
    if unknown:
        raise InputError(f"controls holds {unknown[0]!r}; expected some of {', '.join(CONTROLS)}.")
    about = provenance(
        model,
        experiment="decouple",
        n=len(questions),
        controls=list(controls),
        convention=convention,
        tol=tol,
        seed=seed,
    )
    parts = list(batches(questions, batch_size))
    settings = settings_of(model, questions, batch_size, about) if journal is not None else {}
    measures = _Measures(model, controls, convention, tol, seed, remote)
    with bar(len(parts) * len(measures.units), f"decoupling {model.name}", progress) as passes:
        work = Work(measures.units, lambda batch, units: measures.ask(batch, units, passes), measures.without)
        done = carry_out(work, parts, keeping, settings, passes)
    return Results(pd.DataFrame(done.rows), {**about, **done.meta()})


class _Measures:
    """What is measured: a unit is the model's own updates, or a reference in one layer."""

    def __init__(
        self, model: LVLM, controls: Sequence[str], convention: str, tol: float | None, seed: int, remote: Remote
    ) -> None:
        self.model = model
        self.convention, self.tol, self.seed, self.remote = convention, tol, seed, remote
        controlled = {
            f"{control}, layer {i}": (control, i) for control in controls for i in _layers_with(model, control)
        }
        self.controlled: dict[str, tuple[str, int]] = controlled
        self.units = [OWN, *controlled]

    def ask(self, batch: list[Question], units: list[str], passes: Any) -> Iterator[Given]:
        """The rows of a batch under each unit. Its passes are one session."""
        model, remote = self.model, self.remote
        if remote is False and layers_stand_alone(model):
            yield from self._together(batch, units, passes)
            return
        prompt = model.prompt(batch)
        later: dict[str, Later] = {}
        with Session(model, remote) as session:
            for unit in units:
                if unit == OWN:
                    metrics = update_metrics(model, prompt, None, self.convention, self.tol)
                    later[unit] = session.measure(prompt, metrics)
                else:
                    if not any(one in self.controlled for one in later) and self._with_rope(units):
                        rope = [_attention_of(model, i).terms[0][0] for i in _layers_with(model, "rope")]
                        session.remember(prompt, rope)
                    control, i = self.controlled[unit]
                    reduction, edit = _controlled(control, model, i, prompt, self.convention, self.tol, self.seed)
                    later[unit] = session.measure(prompt, [reduction], edit)
                if remote is False:
                    passes.update()
                    yield unit, self._rows(batch, unit, later[unit].result()), later[unit].touched
        if remote is not False:
            passes.update(len(units))
            for unit, one in later.items():
                yield unit, self._rows(batch, unit, one.result()), one.touched

    def _together(self, batch: list[Question], units: list[str], passes: Any) -> Iterator[Given]:
        """The same with a pass for the untouched model and one for each reference, whatever the number of layers."""
        model = self.model
        prompt = model.prompt(batch)
        own = update_metrics(model, prompt, None, self.convention, self.tol) if OWN in units else []
        references: dict[str, dict[int, tuple[Intervention, Reduction]]] = {}
        for control, i in (self.controlled[unit] for unit in units if unit != OWN):
            reduction, edit = _controlled(control, model, i, prompt, self.convention, self.tol, self.seed)
            references.setdefault(control, {})[i] = edit, reduction
        remembered = [_attention_of(model, i).terms[0][0] for i in references.get("rope", ())]
        for at, numbers, touched in own_and_references(model, prompt, own, remembered, references):
            unit = OWN if at is None else f"{at[0]}, layer {at[1]}"
            if unit in units:
                passes.update()
                yield unit, self._rows(batch, unit, numbers), touched

    def without(self, question: Question, unit: str) -> list[dict[str, Any]]:
        """The rows of a question that could not be measured."""
        nothing = dict.fromkeys(METRICS)
        return [{"layer": i, "update": name, **row_of(question), **nothing} for i, name in self._places(unit)]

    def _places(self, unit: str) -> list[tuple[int, str]]:
        """The layers and updates that a unit tells of."""
        if unit in self.controlled:
            control, i = self.controlled[unit]
            return [(i, control)]
        kept = (*NAMES, "between")
        return [
            (i, NAMES.get(update.kind, update.kind))
            for i in range(self.model.cfg.n_layers)
            for update in layer_updates(self.model.sites, i)
            if update.kind in kept
        ]

    def _with_rope(self, units: Sequence[str]) -> bool:
        return any(self.controlled[unit][0] == "rope" for unit in units if unit in self.controlled)

    def _rows(self, batch: list[Question], unit: str, numbers: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[tuple[int, str, dict[str, Tensor]]] = []
        if unit in self.controlled:
            control, layer = self.controlled[unit]
            found.append((layer, control, numbers["update"]))
        else:
            for i in range(self.model.cfg.n_layers):
                own = numbers[f"updates.{i}"]
                for at, update in enumerate(updates_of(own[METRICS[0]])):
                    found.append((i, NAMES[update], {metric: own[metric][at] for metric in METRICS}))
                if f"between.{i}" in numbers:
                    found.append((i, "between", numbers[f"between.{i}"]))
        return [
            {"layer": i, "update": update, **row_of(q), **{metric: float(own[metric][b]) for metric in METRICS}}
            for i, update, own in found
            for b, q in enumerate(batch)
        ]


def _layers_with(model: LVLM, control: str) -> list[int]:
    """The layers in which a reference can act: two of the three need attention proper, not what is in its place."""
    blocks = model.architecture.stack.blocks
    return [i for i, block in enumerate(blocks) if block.attn is not None or control == "noise_delta"]


def _attention_of(model: LVLM, layer: int) -> StreamUpdate:
    found = find_update(model.sites, "attn", layer)
    assert found is not None
    return found


def _controlled(
    control: str, model: LVLM, layer: int, prompt: Prompt, convention: str, tol: float | None, seed: int
) -> tuple[Reduction, Intervention]:
    """What a reference measures in a layer, and under which intervention."""
    update = _attention_of(model, layer)
    name, times = update.terms[0]  # the stream after attention, or, in a parallel block, what attention gives
    pre = f"blocks.{layer}.hook_resid_pre"
    here: State = name  # the stream after attention in this pass, and what it was in the untouched one
    untouched: State = Remembered(name)
    if not is_difference(update):
        here, untouched = Sum(((pre, 1.0), (name, times))), Sum(((pre, 1.0), (Remembered(name), times)))
    if control == "rope":
        # ε_RoPE: the state with rotary positions, judged against the state without them.
        return between(prompt, "update", here, untouched, convention, tol), RemoveRotary(layers=[layer])
    reduction = between(prompt, "update", pre, here, convention, tol)
    if control == "noise_delta":
        return reduction, NoiseUpdate("attn", layers=[layer], seed=seed)
    return reduction, NoiseWeights("qkv", layers=[layer], seed=seed)

"""Copies of a prompt, each patched in another place, run side by side in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lostattn.cache.activation_cache import ActivationCache
from lostattn.errors import InputError
from lostattn.interventions.patch_rows import by_query, layout_of, matched_positions, n_heads_of, row_edit, same_keys
from lostattn.model.lvlm import LVLM
from lostattn.patching.encoded import encoded_inputs
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting
from lostattn.plan.touch_record import Touched
from lostattn.points.names import is_square
from lostattn.prompt.batch import Prompt
from lostattn.prompt.padded_logits import ending_last
from lostattn.remote.dispatch import raw_of
from lostattn.remote.session import Session
from lostattn.run.batches import bar
from lostattn.run.calls import Call, Remote
from lostattn.run.make_calls import hooks_call
from lostattn.run.reading import read, touched_in

Metric = Callable[[Tensor], Tensor]
PASSES_A_JOB = 8


@dataclass(frozen=True, eq=False)
class Group:
    """A choice of positions: what it is called, and which columns of the source go to which of the target, by item."""

    label: str | int
    token: str
    spec: Any
    source: Bool[Tensor, "batch source"]
    target: Bool[Tensor, "batch target"]


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of the sweep."""

    point: str
    name: str
    layer: int
    head: int
    heads: tuple[int, ...] | None
    group: Group


@dataclass(frozen=True, eq=False, repr=False)
class _Copies(Intervention):
    """Edits that are compiled already: one for each site of a pass, over the copies of its batch."""

    edits: tuple[Edit, ...]

    def compile(self, setting: Setting) -> list[Edit]:
        """The edits themselves."""
        return list(self.edits)


class Rows:
    """The values that go into one copy of the prompt at one point: the clean run's, and the corrupted run's as base."""

    def __init__(
        self, clean: Prompt, corrupted: Prompt, source: ActivationCache, base: ActivationCache, reduce: str
    ) -> None:
        self.clean, self.corrupted, self.reduce = layout_of(clean.token_map), layout_of(corrupted.token_map), reduce
        self.source, self.base = source, base
        self._made: dict[str, tuple[Tensor, Tensor]] = {}
        self._matched: dict[tuple[Group, int], tuple[Tensor, Tensor]] = {}

    def _places(self, group: Group, item: int) -> tuple[Tensor, Tensor]:
        """Which positions come from where: worked out once for all layers and heads that a group is patched in."""
        known = self._matched.get((group, item))
        if known is None:
            known = self._matched[group, item] = matched_positions(
                self.clean[item], group.source[item], self.corrupted[item], group.target[item], group.spec, self.reduce
            )
        return known

    def of(self, setting: Cell, item: int) -> tuple[Tensor, Tensor, Tensor]:
        """The places, the values and the base of one item."""
        name = setting.name
        if name not in self._made:
            if is_square(name):
                same_keys(self.clean, self.corrupted, name)
            self._made[name] = by_query(name, self.source[name]), by_query(name, self.base[name])
        new, old = self._made[name]
        group = setting.group
        come, go = self._places(group, item)
        if self.reduce == "mean":
            mean = new[item][group.source[item].to(new.device)].float().mean(0).to(new)
            return go, mean.expand(len(go), *mean.shape), old[item, go]
        return go, new[item, come], old[item, go]

    def keep(self, names: Iterable[str]) -> None:
        """Let the values of all other points go: patterns are made when they are asked for, and are large."""
        wanted = set(names)
        self._made = {name: made for name, made in self._made.items() if name in wanted}


class Runner:
    """Runs settings in passes of equally many copies, so that a copy without an effect is equal to the last bit.

    Sums of a matrix product may be taken in another order for a batch of another size, but not for the same copy of an
    equal batch: every pass, the unpatched one too, has the same shape.
    """

    def __init__(self, model: LVLM, prompt: Prompt, metric: Metric, rows: Rows, n: int, remote: Remote) -> None:
        self.model, self.metric, self.rows, self.n = model, metric, rows, n
        self.n_items, self.n_pos = len(prompt), prompt.n_pos
        self.prompt, self.remote = prompt, remote

    def run(self, settings: list[Cell], progress: bool) -> Iterator[tuple[Cell, Tensor, Tensor, list[int]]]:
        """Each setting with its metric and its effect, ``[item]`` each, and how many cells it changed in each item."""
        n = self.n
        chunks = [settings[start : start + n] for start in range(0, len(settings), n)]
        passes = self._passes(chunks)
        plain = self._metrics(next(passes)[0], n)
        with bar(len(chunks), "patching", progress) as shown:
            for chunk, (logits, touched) in zip(chunks, passes, strict=True):
                shown.update()
                found = self._metrics(logits, n)
                for slot, setting in enumerate(chunk):
                    yield setting, found[slot], found[slot] - plain[slot], self._changed(touched, setting, slot)

    def _changed(self, touched: Touched | None, setting: Cell, slot: int) -> list[int]:
        """How many cells a setting changed in each item of its copy."""
        if touched is None:
            return [0] * self.n_items
        return touched.at_point(setting.name, self.n * self.n_items)[slot * self.n_items : (slot + 1) * self.n_items]

    def _passes(self, chunks: list[list[Cell]]) -> Iterator[tuple[Tensor, Touched | None]]:
        """The unpatched copies, and then each chunk: logits, and where the patches acted.

        Somewhere else, several passes are one job.
        """
        copies = self.prompt[list(range(self.n_items)) * self.n]
        if self.remote is False:
            yield from self._here(copies, chunks)
            return
        with Session(self.model, self.remote, job_size=PASSES_A_JOB) as session:
            later = [session.run_with_hooks(copies)]
            later += [session.run_with_hooks(copies, (), self._filled(chunk)) for chunk in chunks]
        yield from ((one.result(), one.touched) for one in later)

    def _here(self, copies: Prompt, chunks: list[list[Cell]]) -> Iterator[tuple[Tensor, Touched | None]]:
        """The same in this process, where every pass is over the same pictures: they are encoded once."""
        unpatched = hooks_call(self.model, copies)
        inputs = encoded_inputs(self.model, unpatched.inputs)
        patched = (hooks_call(self.model, copies, (), self._filled(chunk)) for chunk in chunks)
        for call in chain([unpatched], patched):
            yield logits_and_touched(self.model, replace(call, inputs=inputs))

    def _filled(self, chunk: list[Cell]) -> _Copies:
        """The edits of a chunk; copies that it leaves over do what its last one does."""
        self.rows.keep(cell.name for cell in chunk)
        return self._edits(chunk + [chunk[-1]] * (self.n - len(chunk)))

    def _metrics(self, logits: Float[Tensor, "copy pos d_vocab"], n: int) -> list[Tensor]:
        return [metric_values(self.metric, part) for part in ending_last(logits).split(len(logits) // n)]

    def _edits(self, settings: list[Cell]) -> _Copies:
        """One edit a site, over the rows of all copies that are patched there."""
        sites: dict[str, list[tuple[int, Cell]]] = {}
        for slot, setting in enumerate(settings):
            sites.setdefault(setting.name, []).append((slot, setting))
        return _Copies(tuple(self._edit(name, inside) for name, inside in sites.items()))

    def _edit(self, name: str, inside: list[tuple[int, Cell]]) -> Edit:
        n_heads = n_heads_of(self.model.sites, name)
        items, places, values, bases, heads = [], [], [], [], []
        for slot, setting in inside:
            for b in range(self.n_items):
                go, new, old = self.rows.of(setting, b)
                items.append(torch.full_like(go, slot * self.n_items + b))
                places.append(go)
                values.append(new)
                bases.append(old)
                if n_heads is not None:
                    own = torch.zeros(len(go), n_heads, dtype=torch.bool)
                    own[:, range(n_heads) if setting.heads is None else list(setting.heads)] = True
                    heads.append(own)
        at, where = torch.cat(items), torch.cat(places)
        mask = torch.zeros(self.n * self.n_items, self.n_pos, dtype=torch.bool)
        mask[at, where] = True
        return row_edit(name, mask, at, where, torch.cat(values), torch.cat(bases), torch.cat(heads) if heads else None)


def logits_and_touched(model: LVLM, call: Call, remote: Remote = False) -> tuple[Tensor, Touched | None]:
    """What a call for logits gives, and where its edits acted."""
    raw = raw_of(model, call, remote)
    return read(call.reading, model, raw, call.prompt), touched_in(call.reading, raw)


def metric_values(metric: Metric, logits: Tensor) -> Float[Tensor, "item"]:
    """The metric as one number an item, or one for all."""
    found = metric(ending_last(logits))
    if not isinstance(found, Tensor) or found.dim() > 1 or (found.dim() == 1 and len(found) not in (1, len(logits))):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"the metric gave {got} for {len(logits)} items; expected [{len(logits)}] or one number.")
    return found.detach().double().reshape(-1).cpu()

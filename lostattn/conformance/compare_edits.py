"""Edits of attention against the same edits made by hand on the bare model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lostattn.conformance.by_hand import HandEdit, by_hand
from lostattn.conformance.comparison import MOVED, NEAR, Absent, Comparison, Subject, finite, relative
from lostattn.interventions.attention import ReplaceAttention
from lostattn.interventions.sources import Uniform
from lostattn.plan.program import Edit
from lostattn.plan.setting import CROSS
from lostattn.run.local import run_edits


def same_rows(x: Any, cells: Any, here: Any) -> Any:
    """The identity edit at the attention boundary; a copy, so that the write itself is put to the test."""
    return x.clone()


def identities(boundaries: Iterable[str]) -> list[Edit]:
    """The identity edit of every one of these attentions."""
    return [Edit(f"{name}.hook_pattern", same_rows) for name in boundaries]


def identity(subject: Subject) -> list[Comparison]:
    """The identity edit of every attention layer leaves the bare model's logits, bit for bit."""
    if not subject.boundaries:
        raise Absent("no layer calls transformers' attention interface")
    with torch.no_grad():
        bare = subject.bare(**subject.model._inputs(subject.prompt), use_cache=False).logits
    same, _ = run_edits(subject.model, subject.prompt, (), identities(subject.boundaries))
    return [Comparison("identity", unlike_bits(same, bare), 0.0)]


def unlike_bits(found: Tensor, expected: Tensor) -> float:
    """0 where every bit is the same, else the relative difference (and never 0)."""
    return 0.0 if torch.equal(found, expected) else max(relative(finite(found), finite(expected)), 1e-30)


def uniform(subject: Subject, allowed: float = NEAR) -> list[Comparison]:
    """The last row's weights made equal over the picture's columns (or the text's), in every layer at once.

    Where there is cross-attention, also over all of its keys.
    """
    inputs = subject.model._inputs(subject.prompt)
    real = subject.prompt.token_map.real
    with by_hand(subject.bare) as untouched:
        subject.bare(**inputs, use_cache=False)
    made = []
    for keys in subject.choices:
        with by_hand(subject.bare, uniform_by_hand(subject, keys)) as expected:
            subject.bare(**inputs, use_cache=False)
        edit = ReplaceAttention(Uniform(), keys=keys, queries="last")
        found = subject.model.run_with_hooks(subject.prompt, interventions=edit)
        made += [
            Comparison(name_of(keys), gap_of(found, expected.logits[0], real), allowed),
            logits_moved(f"{name_of(keys)} moves", found, untouched.logits[0], real),
        ]
    return made


def name_of(keys: str) -> str:
    """The name of the comparison that edits a choice of keys."""
    return "uniform edit of cross-attention" if keys == CROSS else "uniform edit"


def gap_of(found: Tensor, expected: Tensor, real: Tensor) -> float:
    """How far two sets of logits are apart where there is a token."""
    if found.shape[:2] != real.shape:
        return relative(finite(found), finite(expected))
    return relative(finite(found)[real], finite(expected)[real])


def logits_moved(name: str, found: Tensor, untouched: Tensor, real: Tensor) -> Comparison:
    """Whether an edit moved the logits; ``worst`` counts how often it did not."""
    return Comparison(name, float(gap_of(found, untouched, real) <= MOVED), 0.0)


def uniform_by_hand(subject: Subject, keys: str, without_cache: bool = False) -> HandEdit:
    """The edit of :func:`uniform` on the weights of eager attention.

    At a decoding step the one row at hand is the last. ``without_cache``, or where a family keeps no cache and goes
    over all positions at every step, every row from the prompt's last on is edited, as it was when it was the last.
    """
    token_map = subject.prompt.token_map
    paths, crossed = set(subject.boundaries.values()), set(subject.crossed.values())
    n_prompt, extends = token_map.part.shape[1], keys == "text"
    chosen = torch.zeros_like(token_map.real) if keys == CROSS else token_map[keys]

    def edit(path: str, call: int, weights: Tensor) -> Tensor:
        if path not in paths:
            return weights
        n_rows, n_keys = weights.shape[-2:]
        whole = without_cache or n_rows == n_prompt + call
        total = n_rows if whole else n_prompt + call
        if path in crossed:
            columns = crossed_columns(subject, keys, n_keys)
        else:
            columns = torch.cat([chosen, torch.full((len(chosen), total - n_prompt), extends)], dim=1)
            if subject.merged and token_map.cross is not None:  # the encoder's keys stand behind the positions
                behind = token_map.cross.chosen(keys)
                columns = torch.cat([columns[:, total - (n_keys - behind.shape[1]) :], behind], dim=1)
                total = n_keys
            room = n_keys - total  # for tokens to come, or the keys of an encoder; a window lets go of the first ones
            columns = torch.nn.functional.pad(columns, (0, room)) if room > 0 else columns[:, -room:]
        if not columns.any():
            return weights
        weights = weights.float()
        rows = weights[:, :, n_prompt - 1 :] if whole else weights[:, :, -1:]
        cells = (rows > 0) & columns[:, None, None, :]  # a key that is masked has a weight of exactly nothing
        share = (rows * cells).sum(-1, keepdim=True) / cells.sum(-1, keepdim=True).clamp_min(1)
        new = torch.where(cells, share, rows)
        return torch.cat([weights[:, :, : weights.shape[2] - new.shape[2]], new], dim=2)

    return edit


def crossed_columns(subject: Subject, keys: str, n_keys: int) -> Tensor:
    """The keys of cross-attention that a choice names, ``[batch, key]``: the picture is among them, or they are it."""
    prompt = subject.prompt
    batch, tiles = len(prompt.token_map.part), prompt.inputs.get("aspect_ratio_mask")
    if keys == CROSS:
        return torch.ones(batch, n_keys, dtype=torch.bool)
    if tiles is not None:  # those that are there
        here = tiles.flatten(1).bool()
        return here.repeat_interleave(n_keys // here.shape[1], dim=1) & (keys == "image")
    cross = prompt.token_map.cross
    return torch.zeros(batch, n_keys, dtype=torch.bool) if cross is None else cross.chosen(keys)

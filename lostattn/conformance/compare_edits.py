"""Edits of attention against the same edits made by hand on the bare model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lostattn.conformance.by_hand import HandEdit, by_hand
from lostattn.conformance.comparison import MOVED, NEAR, Absent, Comparison, Subject, finite, relative
from lostattn.plan import Edit


def same_rows(x: Any, cells: Any, here: Any) -> Any:
    """The identity edit at the attention boundary; a copy, so that the write itself is put to the test."""
    return x.clone()


def identities(layers: Sequence[int]) -> list[Edit]:
    """The identity edit of every one of these layers' attention."""
    return [Edit(f"blocks.{i}.attn.hook_pattern", same_rows) for i in layers]


def identity(subject: Subject) -> list[Comparison]:
    """The identity edit of every attention layer leaves the bare model's logits, bit for bit."""
    layers = subject.layers
    if not layers:
        raise Absent("no layer calls transformers' attention interface")
    with torch.no_grad():
        bare = subject.bare(**subject.model._inputs(subject.prompt), use_cache=False).logits
    same, _ = subject.model._run(subject.prompt, (), identities(list(layers)))
    return [Comparison("identity", unlike_bits(same, bare), 0.0)]


def unlike_bits(found: Tensor, expected: Tensor) -> float:
    """0 where every bit is the same, else the relative difference (and never 0)."""
    return 0.0 if torch.equal(found, expected) else max(relative(finite(found), finite(expected)), 1e-30)


def uniform(subject: Subject, allowed: float = NEAR) -> list[Comparison]:
    """The last row's weights made equal over the picture's columns (or the text's), in every layer at once."""
    import lostattn as la

    inputs = subject.model._inputs(subject.prompt)
    with by_hand(subject.bare) as untouched:
        subject.bare(**inputs, use_cache=False)
    with by_hand(subject.bare, uniform_by_hand(subject)) as expected:
        subject.bare(**inputs, use_cache=False)
    found = subject.model.run_with_hooks(
        subject.prompt, interventions=la.ReplaceAttention(la.Uniform(), keys=subject.keys, queries="last")
    )
    real = subject.prompt.token_map.real
    return [
        Comparison("uniform edit", gap_of(found, expected.logits[0], real), allowed),
        moved("uniform edit moves", found, untouched.logits[0], real),
    ]


def gap_of(found: Tensor, expected: Tensor, real: Tensor) -> float:
    """How far two sets of logits are apart where there is a token."""
    if found.shape[:2] != real.shape:
        return relative(finite(found), finite(expected))
    return relative(finite(found)[real], finite(expected)[real])


def moved(name: str, found: Tensor, untouched: Tensor, real: Tensor) -> Comparison:
    """Whether an edit moved the logits; ``worst`` counts how often it did not."""
    return Comparison(name, float(gap_of(found, untouched, real) <= MOVED), 0.0)


def uniform_by_hand(subject: Subject, without_cache: bool = False) -> HandEdit:
    """The edit of :func:`uniform` on the weights of eager attention.

    At a decoding step the one row at hand is the last. ``without_cache``, or where a family keeps no cache and goes
    over all positions at every step, every row from the prompt's last on is edited, as it was when it was the last.
    """
    token_map = subject.prompt.token_map
    paths = set(subject.layers.values())
    chosen, extends, n_prompt = token_map[subject.keys], subject.keys == "text", token_map.part.shape[1]

    def edit(path: str, call: int, weights: Tensor) -> Tensor:
        if path not in paths:
            return weights
        weights = weights.float()
        n_rows, n_keys = weights.shape[-2:]
        whole = without_cache or n_rows == n_prompt + call
        total = n_rows if whole else n_prompt + call
        rows = weights[:, :, n_prompt - 1 :] if whole else weights[:, :, -1:]
        columns = torch.cat([chosen, torch.full((len(chosen), total - n_prompt), extends)], dim=1)
        if token_map.cross is not None:  # the picture is the keys of some layers, and no position of the others
            if "cross" not in path:
                return weights
            tiles = subject.prompt.inputs["aspect_ratio_mask"].flatten(1).bool()  # those that are there
            columns = tiles.repeat_interleave(n_keys // tiles.shape[1], dim=1)
        elif n_keys > total:  # room for tokens to come, or the keys of an encoder
            columns = torch.cat([columns, torch.zeros(len(chosen), n_keys - total, dtype=torch.bool)], dim=1)
        else:  # a window lets go of the first ones
            columns = columns[:, total - n_keys :]
        cells = (rows > 0) & columns[:, None, None, :]  # a key that is masked has a weight of exactly nothing
        share = (rows * cells).sum(-1, keepdim=True) / cells.sum(-1, keepdim=True).clamp_min(1)
        new = torch.where(cells, share, rows)
        return torch.cat([weights[:, :, : weights.shape[2] - new.shape[2]], new], dim=2)

    return edit

"""Metrics reduced inside a pass, so that what comes back is a few numbers and never an activation."""

from __future__ import annotations

import torch

from lostattn.kernels.metrics import decompose, discrepancy, mixing_entropy, support


def layer_updates(held, here, pre, mid, post, mask, tol, layer_input, mixing, passes_on=True, crossed=None):
    """The metrics of a layer's two updates, ``{name: [2, batch]}``: attention first, then the FFN.

    ``pre``, ``mid`` and ``post`` name the three states; where cross-attention adds to the stream between the two,
    ``crossed`` names the state after that, and its numbers stand between theirs. What a layer ends with is what the
    next begins with, so its decomposition is passed on: ``2 L + 1`` decompositions for ``L`` layers. ``mixing`` are the
    settings of the token-mixing entropy; ``layer_input`` judges all of them against ``pre`` (the released convention).
    Without ``passes_on`` something is added after the layer, so what it ends with is held for that and not passed on.
    """
    mask = mask.to(held[pre].device)
    carried = here["memory"].pop("stream", None)
    if carried is not None and carried["name"] == pre:
        before, entropy = carried["state"], carried["entropy"]
    else:
        before = decompose(held[pre], mask, tol)
        entropy = mixing_entropy(before, mask, *mixing)
    basis = support(before)
    found = []
    inside = [mid] if crossed is None else [mid, crossed]
    for name in (*inside, post):
        after = decompose(held[name], mask, tol)
        numbers = discrepancy(before, basis, after)
        mixed = mixing_entropy(after, mask, *mixing)
        numbers["mixig"] = mixed - entropy
        found.append(numbers)
        entropy, last = mixed, after
        if name != post and not layer_input:
            before, basis = after, support(after)
    if passes_on:  # what this layer calls post, the next calls pre
        here["memory"]["stream"] = {"name": next_layer(pre), "state": last, "entropy": entropy}
        held.pop(post)
    for name in (pre, *inside):
        held.pop(name)
    return {name: torch.stack([numbers[name] for numbers in found]) for name in found[0]}


def parallel_updates(held, here, pre, states, mask, tol, mixing, frees):
    """The metrics of two updates that read the same stream, ``{name: [2, batch]}``: each judged against that stream.

    ``states`` are the stream with attention's update alone and with the FFN's alone; see ``state_of``. ``frees`` names
    the points that are let go.
    """
    mask = mask.to(held[pre].device)
    before = decompose(held[pre], mask, tol)
    entropy, basis = mixing_entropy(before, mask, *mixing), support(before)
    found = []
    for state in states:
        after = decompose(state_of(state, held, here), mask, tol)
        found.append({**discrepancy(before, basis, after), "mixig": mixing_entropy(after, mask, *mixing) - entropy})
    for name in frees:
        held.pop(name)
    return {name: torch.stack([numbers[name] for numbers in found]) for name in found[0]}


def next_layer(name: str) -> str:
    """``blocks.3.hook_resid_pre`` -> ``blocks.4.hook_resid_pre``."""
    stack, layer, point = name.split(".", 2)
    return f"{stack}.{int(layer) + 1}.{point}"


def state_of(state, held, here):
    """A state: a held point's name, a tensor, or a dict.

    ``{"remembered": name}`` is what an earlier pass of the session left, ``{"sum": [(state, number), …]}`` a sum.
    """
    if isinstance(state, str):
        return held[state]
    if isinstance(state, dict) and "sum" in state:
        first = state_of(state["sum"][0][0], held, here)
        total = torch.zeros_like(first)
        for part, times in state["sum"]:
            total = total + state_of(part, held, here).to(total.device) * times
        return total
    if isinstance(state, dict):
        return here["memory"]["session"][state["remembered"]]
    return state


def one_update(held, here, before, after, mask, tol, mixing, frees=()):
    """The metrics of a single update, ``{name: [batch]}``; see ``state_of`` for what a state may be.

    ``frees`` names the points that are let go.
    """
    first = state_of(before, held, here)
    second = state_of(after, held, here).to(first.device)
    mask = mask.to(first.device)
    for name in frees:
        held.pop(name)
    old, new = decompose(first, mask, tol), decompose(second, mask, tol)
    numbers = discrepancy(old, support(old), new)
    numbers["mixig"] = mixing_entropy(new, mask, *mixing) - mixing_entropy(old, mask, *mixing)
    return numbers


def of_point(held, here, name, function, mask, free: bool):
    """A function of one point: ``function(value, mask=mask)``. ``free`` lets the value go."""
    value = held.pop(name) if free else held[name]
    return function(value, mask=mask.to(value.device))


def largest_change(held, here, name):
    """The largest absolute difference of a point from what an earlier pass of the session remembers of it."""
    before = here["memory"]["session"][name]
    return (held[name].float() - before.float()).abs().max()

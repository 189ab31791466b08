"""TransformerLens' ``fwd_hooks``: pairs of a name (or filter) and a function, as edits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lostattn.errors import InputError
from lostattn.kernels.edits import call_hook, call_rows
from lostattn.plan.program import Edit
from lostattn.points.names import is_square, split_block
from lostattn.points.reach import check_reached, reached_points
from lostattn.points.sites import Sites
from lostattn.prompt.batch import Prompt

HookFunction = Callable[..., Tensor | None]
FwdHook = tuple[str | Callable[[str], bool], HookFunction]


class HookPoint:
    """What a hook function is told about where it is: ``hook.name``, ``hook.layer()``, and a ``ctx`` of its own."""

    ctx: dict[str, Any]

    def __init__(self, name: str) -> None:
        self.name = name
        self.ctx = {}

    def layer(self) -> int:
        """The layer that this point lies in.

        Raises:
            InputError: it lies in none.
        """
        inside = split_block(self.name)
        if inside is None:
            raise InputError(f"{self.name!r} lies in no layer.")
        return inside[1]

    def __repr__(self) -> str:
        return f"HookPoint({self.name!r})"


def hook_edits(sites: Sites, fwd_hooks: Sequence[FwdHook | Any], prompt: Prompt) -> list[Edit]:
    """The edits that ``fwd_hooks`` mean. A filter takes every point that it accepts and that can be edited here.

    Raises:
        InputError: a pair of another form, or a named point that cannot be edited or that the prompt does not reach.
        UnknownName: a name that nothing answers to, or a filter that accepts nothing.
    """
    edits = []
    for pair in fwd_hooks:
        if not (
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and (isinstance(pair[0], str) or callable(pair[0]))
            and callable(pair[1])
        ):
            raise InputError(f"fwd_hooks holds {pair!r}; expected pairs (name or filter, function).")
        chosen, function = pair
        _check_callable(function)
        names = [sites.editable(chosen)] if isinstance(chosen, str) else _accepted(sites, chosen, prompt)
        check_reached(prompt, names)
        for name in names:
            at_boundary = is_square(name)
            params = {"function": function, "hook": HookPoint(name)}
            edits.append(Edit(name, call_rows if at_boundary else call_hook, params))
    return edits


def _check_callable(function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called with a value and its hook."""
    try:
        inspect.signature(function).bind("value", "hook")
    except TypeError as error:
        named = getattr(function, "__qualname__", type(function).__name__)
        raise InputError(
            f"the hook {named} cannot be called as function(value, hook): {error}. Expected a function of those two, "
            "such as lambda value, hook: 0 * value."
        ) from None
    except ValueError:  # some built-in functions do not tell what they take
        return


def _accepted(sites: Sites, accepts: Callable[[str], bool], prompt: Prompt) -> list[str]:
    accepted = [name for name in reached_points(prompt, sites.names) if accepts(name)]
    editable = []
    for name in accepted:
        try:
            editable.append(sites.editable(name))
        except InputError:
            continue
    if not editable:
        raise InputError(f"a filter in fwd_hooks accepts {len(accepted)} points, of which none can be edited.")
    return editable

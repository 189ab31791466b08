"""The passes of a generation put together: one prompt with what was generated behind it, and one row a position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lostattn.errors import InputError
from lostattn.kernels.attention import visible_keys
from lostattn.points.names import is_square
from lostattn.points.reach import of_vision
from lostattn.prompt.batch import Prompt
from lostattn.prompt.parts import PARTS
from lostattn.prompt.turn_names import with_answer


def extended_prompt(
    prompt: Prompt, tokens: Int[Tensor, "batch more"], alive: Bool[Tensor, "batch more"], texts: Sequence[Sequence[str]]
) -> Prompt:
    """The prompt with generated tokens behind it, as its answer so far; what an item was filled up with is padding."""
    n = tokens.shape[1]
    shape = (prompt.batch, prompt.n_pos)
    by_position = [
        name
        for name, value in prompt.inputs.items()
        if value.shape[:2] == shape and not name.startswith(("pixel", "image"))
    ]
    inputs = {**prompt.inputs, **{n: _longer(n, prompt.inputs[n], tokens, alive) for n in by_position}}
    token_map = prompt.token_map
    own = alive.to(token_map.part.device)
    part = torch.where(own, PARTS.index("answer"), PARTS.index("padding")).to(token_map.part.dtype)
    none = torch.full_like(token_map.image_index[:, :1], -1).expand(-1, n)
    turns = token_map.turn_index
    roles = tuple(map(with_answer, token_map.roles))
    if turns is not None:
        last = torch.tensor([len(of_item) - 1 for of_item in roles], device=turns.device)[:, None]
        said = torch.where(own, last.to(turns), torch.full_like(last, -1).to(turns))
        turns = torch.cat([turns, said.to(turns.device)], 1)
    longer = replace(
        token_map,
        turn_index=turns,
        roles=roles,
        part=torch.cat([token_map.part, part], 1),
        image_index=torch.cat([token_map.image_index, none], 1),
        patch_index=torch.cat([token_map.patch_index, none.to(token_map.patch_index.dtype)], 1),
    )
    strings = tuple((*old, *new[:n]) for old, new in zip(prompt.str_tokens, texts, strict=True))
    return replace(prompt, inputs=inputs, token_map=longer, str_tokens=strings)


def _longer(name: str, value: Tensor, tokens: Tensor, alive: Tensor) -> Tensor:
    """An input that goes by position, with its columns for generated tokens: those of the last token of the text."""
    n = tokens.shape[1]
    more = value[:, -1:].expand(-1, n, *value.shape[2:])
    if name == "input_ids":
        more = tokens
    elif name == "attention_mask":
        more = alive
    elif name == "position_ids":
        more = more + torch.arange(1, n + 1, device=value.device)
    return torch.cat([value, more.to(value)], 1)


def joined_steps(steps: Sequence[Mapping[str, Any]], n_tokens: int) -> dict[str, Any]:
    """What every pass kept as one: a row for each position of the prompt and one for each step after it.

    Raises:
        InputError: the passes are not one over the prompt and one for each further token.
    """
    wanted = 1 if all(of_vision(name) for name in steps[0]) else n_tokens
    if len(steps) != wanted:
        raise InputError(
            f"{n_tokens} tokens were generated in {len(steps)} passes that came by every point asked for; a cache of "
            "the steps needs one pass a token. Leave out points that decoding does not reach, and "
            "settings that take several tokens a pass."
        )
    known: dict[tuple[int, ...], dict[str, Any]] = {}  # layers are given the same masks: one copy for all of them
    out: dict[str, Any] = {}
    for name, first in steps[0].items():
        parts = [first] + [step[name] for step in steps[1:] if name in step]
        if of_vision(name) or len(parts) == 1:
            out[name] = first
        elif isinstance(first, dict):
            key = tuple(id(v) if isinstance(v, Tensor) else hash(v) for part in parts for v in part.values())
            if key not in known:
                known[key] = _joined_geometry(parts)
            out[name] = {**known[key], "scaling": first["scaling"]}
        elif is_square(name):
            out[name] = _joined_square(parts, 0.0 if name.endswith("hook_pattern") else float("-inf"))
        else:
            out[name] = torch.cat(parts, 1)
    return out


def _joined_square(parts: Sequence[Tensor], blank: float | int | bool) -> Tensor:
    """Rows over keys ``[batch, head, row, key]`` below each other, as wide as the last; what a row cannot see is blank.

    A row reaches to the position that it is of. A layer with a sliding window drops the keys that have left it.
    """
    total = parts[0].shape[2] + len(parts) - 1
    rows, end = [], parts[0].shape[2]
    for part in parts:
        edges = (end - part.shape[3], total - end)
        rows.append(torch.nn.functional.pad(part, edges, value=blank))
        end += 1
    wide = [max(row.shape[axis] for row in rows) for axis in (0, 1)]
    return torch.cat([row.expand(*wide, *row.shape[2:]) for row in rows], 2)


def _joined_geometry(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The geometry of one pass over all positions: which key each row could see, and what else its kernel was given."""
    first = parts[0]
    visible = [
        visible_keys(part["mask"], part["causal"], torch.arange(part["n_rows"]), part["n_rows"], part["n_keys"])
        for part in parts
    ]
    mask = _joined_square(visible, False)
    if any(part["mask"] is not None and part["mask"].is_floating_point() for part in parts):
        mask = _added(parts, mask)
    out = {**first, "mask": mask, "causal": False}
    if first.get("bias") is not None:
        out["bias"] = _joined_square([part["bias"][..., : part["n_keys"]] for part in parts], 0.0)
    if first.get("sinks") is not None and first["sinks"].dim() == 4:
        out["sinks"] = torch.cat([part["sinks"] for part in parts], 2)
    return {name: value for name, value in out.items() if name not in ("n_rows", "n_keys")}


def _added(parts: Sequence[Mapping[str, Any]], visible: Bool[Tensor, "_ _ row key"]) -> Tensor:
    """An additive mask, of kernels that were given one: what it adds where it hides nothing counts too."""
    dtype = next(p["mask"].dtype for p in parts if p["mask"] is not None and p["mask"].is_floating_point())
    blank = torch.finfo(dtype).min
    given = [
        torch.zeros(1, 1, part["n_rows"], part["n_keys"], dtype=dtype)
        if part["mask"] is None or not part["mask"].is_floating_point()
        else part["mask"][:, :, :, : part["n_keys"]]
        for part in parts
    ]
    return _joined_square(given, blank).masked_fill(~visible, blank)

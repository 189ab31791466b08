"""Whether what came back is what was asked for: checked before a cache or a generation is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lostattn.remote.failures import UnreadableResult
from lostattn.run.calls import Raw, Reading

_BY_HEAD = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k", "hook_attn_scores", "hook_pattern")
HIGHEST = 1 << 31  # token ids are smaller


def checked_result(found: dict[str, Any], readings: Sequence[Reading], single: bool, host: str) -> list[Raw]:
    """What each call of a job gave.

    Args:
        found: what the server sent.
        readings: how each call is to be read.
        single: whether the job was one call, sent by itself.
        host: who sent it, for messages.

    Raises:
        UnreadableResult: it is not what these calls give.
    """
    sent = found.get("sent")
    calls = [sent] if single else sent
    wrong: str | None = None
    if not isinstance(calls, list) or len(calls) != len(readings):
        told = f"{len(calls)} results" if isinstance(calls, list) else f"a {type(calls).__name__}"
        wrong = f"{told}; expected those of {len(readings)} calls"
    else:
        found_wrong = (_wrong(raw, one) for raw, one in zip(calls, readings, strict=True))
        wrong = next((one for one in found_wrong if one is not None), None)
    if wrong is not None:
        raise UnreadableResult(
            f"{host} sent {wrong}. The job may be of another call, or the service runs other versions; send it again."
        )
    assert isinstance(calls, list)
    return calls


def _wrong(raw: Any, reading: Reading) -> str | None:
    """What of a call's result is not as its reading needs it."""
    if not isinstance(raw, dict):
        return f"a {type(raw).__name__} where a call's values were expected"
    if not raw and reading.kind == "cache":
        return None  # a pass whose values stay there, for others to use
    if reading.edits and (wrong := _wrong_touched(raw.get("touched"), reading)) is not None:
        return wrong
    if reading.kind == "generation":
        return _wrong_generation(raw, reading)
    if reading.kind in ("cache", "logits") and not _is_logits(raw.get("logits")):
        return "no logits"
    if reading.kind == "measures" and not (raw.get("logits") is None or _is_logits(raw["logits"])):
        return "logits that are none"
    return _wrong_kept(raw.get("kept"), reading)


def _wrong_generation(raw: dict[str, Any], reading: Reading) -> str | None:
    sequences, steps = raw.get("sequences"), raw.get("steps")
    if not isinstance(sequences, Tensor) or sequences.dim() != 2 or sequences.is_floating_point():
        return "no generated tokens"
    if sequences.shape[0] != reading.n_items or sequences.shape[1] < reading.n_pos:
        expected = f"{reading.n_items} of at least {reading.n_pos} tokens"
        return f"sequences of shape {tuple(sequences.shape)}; expected {expected}"
    if sequences.is_complex() or bool(((sequences < 0) | (sequences >= HIGHEST)).any()):
        return "tokens that are no ids"
    for name in ("scores", "logits"):
        if raw.get(name) is not None and not (_is_logits(raw[name]) and len(raw[name]) == len(sequences)):
            return f"{name} of a generation that are none"
    if not isinstance(steps, list):
        return "no steps of a generation"
    if reading.names and not steps:
        return "nothing of the steps that were to be kept"
    return next((wrong for step in steps if (wrong := _wrong_kept(step, reading)) is not None), None)


def _wrong_touched(noted: Any, reading: Reading) -> str | None:
    """What of a count of changed cells is none: numbers of edits, steps, and a list of counts for each."""
    if noted is None:
        return None
    held: dict[str, Any] = noted if isinstance(noted, dict) else {}
    number, step, counts = held.get("number"), held.get("step"), held.get("counts")
    if not isinstance(counts, list) or not all(map(_is_row, [number, step, *counts])):
        return "no counts of what its edits changed"
    assert isinstance(number, Tensor) and isinstance(step, Tensor)
    if not len(number) == len(step) == len(counts):
        return f"{len(counts)} counts of changes by {len(number)} edits in {len(step)} steps"
    known = all(0 <= one < len(reading.edits) for one in number.tolist())
    return None if known else "counts of edits that it has not"


def _is_row(value: Any) -> bool:
    """Whether these are whole numbers in a row."""
    whole = isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
    return whole and value.dim() == 1


def _is_logits(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point()


def _wrong_kept(value: Any, reading: Reading) -> str | None:
    """Values by name; of hook points they are tensors, or what a kernel was given beside them."""
    if reading.kind == "logits":
        return None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return "no values by name"
    if reading.kind in ("numbers", "measures"):
        return None
    for name, one in value.items():
        if isinstance(one, Tensor) and name.startswith("blocks.") and name.endswith(_BY_HEAD) and one.dim() != 4:
            return f"a tensor of shape {tuple(one.shape)} as the value of {name[:200]!r}"
        for part in one.values() if isinstance(one, dict) else [one]:
            beside = part is None or isinstance(part, bool | int | float | str)
            if not (isinstance(part, Tensor) or (beside and isinstance(one, dict))):
                return f"a {type(part).__name__} as the value of {name[:200]!r}"
    return None

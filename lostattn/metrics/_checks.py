"""What the metrics ask of their arguments, checked once, before any arithmetic."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lostattn.errors import InputError

CONVENTIONS = ("paper", "released")
# Gram matrices hold sums of squares: within these the squares of billions of values stay normal numbers of float64.
SMALLEST, LARGEST = 1e-140, 1e140


def check_state(x: Tensor, name: str = "x", mask: Tensor | None = None) -> None:
    """Refuse a state that is not a finite, non-empty ``[*batch, pos, d_model]``; padded rows may hold
    anything."""
    if not torch.is_tensor(x):
        raise InputError(f"{name} is a {type(x).__name__}; expected a tensor [*batch, pos, d_model].")
    if not x.is_floating_point():
        raise InputError(
            f"{name} has dtype {x.dtype}; expected a floating-point state. Convert it, for example {name}.float()."
        )
    if x.ndim < 2:
        raise InputError(
            f"{name} has shape {tuple(x.shape)}; expected [*batch, pos, d_model]. One vector is {name}[None]."
        )
    if x.numel() == 0:
        raise InputError(f"{name} has shape {tuple(x.shape)}, so it is empty; give it at least one row and column.")
    if mask is not None:
        check_mask(mask, x.shape[:-1], name, "[*batch, pos]")
    refuse_not_finite(x, name, mask)


def refuse_not_finite(x: Float[Tensor, "*batch pos d_model"], name: str, mask: Tensor | None) -> None:
    """Say where the first NaN or infinity stands, if a real row holds one."""
    # The extremes carry a NaN on and take one reading of the state; look closer only where they are not finite.
    low, high = x.detach().aminmax()
    if math.isfinite(low) and math.isfinite(high):
        if not _squares_fit(low, high):
            refuse_out_of_range(x, name, mask)
        return
    bad = ~torch.isfinite(x.detach())
    if mask is not None:
        bad = bad & mask.unsqueeze(-1)
    if bool(bad.any()):
        place = bad.nonzero()[0].tolist()
        raise InputError(
            f"{name}[{', '.join(map(str, place))}] is {float(x[tuple(place)])}, and {int(bad.sum())} of its "
            "values are "
            "not finite; expected finite numbers. If these are padded rows, pass mask= (True at real "
            "tokens); if the "
            "model overflowed, run it in bfloat16 or float32."
        )


def _squares_fit(low: Tensor, high: Tensor) -> bool:
    largest = max(abs(float(low)), abs(float(high)))
    return largest == 0 or SMALLEST <= largest <= LARGEST


def refuse_out_of_range(x: Float[Tensor, "*batch pos d_model"], name: str, mask: Tensor | None) -> None:
    """Refuse a state whose real rows are so large, or all so small, that float64 does not hold their squares."""
    real = x.detach() if mask is None else x.detach().masked_fill(~mask.unsqueeze(-1), 0)
    if not _squares_fit(*real.aminmax()):
        raise InputError(
            f"the largest value of {name} is {float(real.abs().max()):.3g} in size: float64 does not hold its square; "
            f"expected one between {SMALLEST:g} and {LARGEST:g}, or zeros alone. Did the model overflow? If it is a "
            "matter of units, scale the state."
        )


def check_mask(mask: Tensor, shape: torch.Size, name: str, axes: str) -> None:
    """Refuse a padding mask that is not boolean, has another shape, or leaves nothing."""
    if not torch.is_tensor(mask) or mask.dtype != torch.bool:
        got = mask.dtype if torch.is_tensor(mask) else type(mask).__name__
        raise InputError(
            f"mask is {got}; expected a boolean tensor {axes}, True at real tokens. Use attention_mask.bool()."
        )
    if mask.shape != shape:
        raise InputError(f"mask has shape {tuple(mask.shape)}; {name} needs {tuple(shape)}, that is {axes}.")
    empty = ~mask.any(-1)
    if bool(empty.any()):
        where = f" of batch element {tuple(empty.nonzero()[0].tolist())}" if empty.ndim else ""
        raise InputError(f"mask is False at every position{where}, so no row is left; mark at least one token as real.")


def check_pair(before: Tensor, after: Tensor, mask: Tensor | None) -> None:
    """Refuse two states that are not one stream before and after an update."""
    check_state(before, "before", mask)
    check_state(after, "after", mask)
    check_same(before, after, ("before", "after"))


def check_same(before: Tensor, after: Tensor, names: tuple[str, str]) -> None:
    """Refuse two states of different shapes or devices."""
    if before.shape != after.shape:
        raise InputError(
            f"{names[0]} has shape {tuple(before.shape)} and {names[1]} {tuple(after.shape)}; expected the "
            "same stream "
            "before and after an update, so equal shapes."
        )
    if before.device != after.device:
        raise InputError(f"{names[0]} is on {before.device} and {names[1]} on {after.device}; move one to the other.")


def check_convention(convention: str) -> None:
    """Refuse a convention other than the paper's and its released code's."""
    if convention not in CONVENTIONS:
        raise InputError(f"convention={convention!r}; expected 'paper' or 'released'.")


def check_tol(tol: float | int | None) -> None:
    """Refuse a relative tolerance outside [0, 1)."""
    if tol is not None and not 0 <= tol < 1:
        raise InputError(
            f"tol={tol!r}; expected a share of the largest singular value in [0, 1), or None for max(S, H) * eps."
        )


def check_keys(keys: Tensor, pattern: Tensor) -> None:
    """Refuse a choice of keys that is not boolean ``[*batch, key]``."""
    shape = pattern.shape[:-3] + pattern.shape[-1:]
    if not torch.is_tensor(keys) or keys.dtype != torch.bool or keys.shape != shape:
        got = f"{keys.dtype} of shape {tuple(keys.shape)}" if torch.is_tensor(keys) else type(keys).__name__
        raise InputError(
            f"keys is {got}; expected torch.bool of shape {tuple(shape)}, that is [*batch, key], such as "
            "prompt.token_map['image']."
        )


def check_pattern(pattern: Tensor, mask: Bool[Tensor, "*batch key"] | None = None) -> None:
    """Refuse a pattern that is not a finite, non-negative ``[*batch, head, query, key]``."""
    if not torch.is_tensor(pattern) or not pattern.is_floating_point() or pattern.ndim < 3:
        got = f"{tuple(pattern.shape)} of {pattern.dtype}" if torch.is_tensor(pattern) else type(pattern).__name__
        raise InputError(
            f"pattern is {got}; expected floating-point [*batch, head, query, key], as cache['pattern', i]."
        )
    if pattern.numel() == 0:
        raise InputError(f"pattern has shape {tuple(pattern.shape)}, so it is empty.")
    if pattern.shape[-2] > pattern.shape[-1]:
        raise InputError(
            f"pattern has {pattern.shape[-2]} queries and {pattern.shape[-1]} keys; expected [*batch, head, "
            "query, key] of "
            "self-attention, with no more queries than keys. Are the last two axes swapped?"
        )
    seen = pattern
    if mask is not None:
        check_mask(mask, pattern.shape[:-3] + pattern.shape[-1:], "pattern", "[*batch, key]")
        # The rows of padded queries mean nothing; backends fill them with whatever comes.
        queries = mask[..., -pattern.shape[-2] :]
        seen = seen.masked_fill(~(queries[..., :, None] & mask[..., None, :])[..., None, :, :], 0)
    bad = ~((seen <= min(LARGEST, torch.finfo(seen.dtype).max)) & (seen >= 0))
    if bool(bad.any()):
        place = bad.nonzero()[0].tolist()
        raise InputError(
            f"pattern[{', '.join(map(str, place))}] is {float(pattern[tuple(place)])}; expected weights "
            "after the softmax: "
            "finite, not negative and of no such size. Scores before the softmax are another hook point, 'attn_scores'."
        )

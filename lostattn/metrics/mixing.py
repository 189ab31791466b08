"""Token mixing: how evenly the tokens of a state resemble one another, and how an update changes that.

With ``x̃_t`` the unit-length rows of a state, ``P_tj ∝ ((x̃_t · x̃_j + 1) / 2) ** power`` over the real
tokens j, t itself among them; the entropy of a row of P says over how many tokens t is spread. A row of
length zero has cosine 0 with all.

| convention | power | normalise (by ln S) | rows |
|---|---|---|---|
| 'paper' | 1 | no | 'all': the mean over tokens |
| 'released' | 8 | yes | 'last': the last real token's row |
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.kernels import metrics as _kernels
from lostattn.metrics._checks import check_convention, check_pair, check_state


def mixing_settings(
    convention: str, power: float | int | None, normalise: bool | None, rows: str | None
) -> tuple[float, bool, bool]:
    """``(power, normalise, last row only)``: a convention's own, where the caller does not say."""
    check_convention(convention)
    if power is not None and not 0 < power < float("inf"):
        raise InputError(f"power={power!r}; expected a positive number: 1 in the paper, 8 in the released code.")
    if rows not in (None, "all", "last"):
        raise InputError(f"rows={rows!r}; expected 'all' (mean over tokens), 'last' (the last real token) or None.")
    released = convention == "released"
    return (
        (8.0 if released else 1.0) if power is None else float(power),
        released if normalise is None else normalise,
        (released if rows is None else rows == "last"),
    )


@checked_call
def token_mixing_entropy(
    x: Float[Tensor, "*batch pos d_model"],
    convention: str = "paper",
    mask: Bool[Tensor, "*batch pos"] | None = None,
    *,
    power: float | int | None = None,
    normalise: bool | None = None,
    rows: str | None = None,
) -> Float[Tensor, "*batch"]:
    """TME of a state, float64: in nats, from 0 to ln S, or a share of ln S where normalised (0 for one
    token).

    Args:
        x: the state.
        convention: 'paper' or 'released'; sets the three below where they are None (the table above).
        mask: True at real tokens; padded rows take no part.
        power: exponent that sharpens the weights.
        normalise: divide by ln S, with S the real tokens.
        rows: 'all' or 'last'.

    Raises:
        InputError: x is empty, of a wrong kind or not finite in a real row, or an argument cannot be.
    """
    settings = mixing_settings(convention, power, normalise, rows)
    check_state(x, "x", mask)
    return _kernels.mixing_entropy(_kernels.tokens(x, mask), mask, *settings)


@checked_call
def mixig(
    before: Float[Tensor, "*batch pos d_model"],
    after: Float[Tensor, "*batch pos d_model"],
    convention: str = "paper",
    mask: Bool[Tensor, "*batch pos"] | None = None,
    *,
    power: float | int | None = None,
    normalise: bool | None = None,
    rows: str | None = None,
) -> Float[Tensor, "*batch"]:
    """``MixIG = TME(X') − TME(X)``, float64: mixing information gain, rearrangement inside the space.

    Arguments and errors: as ``token_mixing_entropy``; the two shapes must be equal.
    """
    settings = mixing_settings(convention, power, normalise, rows)
    check_pair(before, after, mask)
    first = _kernels.mixing_entropy(_kernels.tokens(before, mask), mask, *settings)
    return _kernels.mixing_entropy(_kernels.tokens(after, mask), mask, *settings) - first

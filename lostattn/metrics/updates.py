"""All metrics of the updates of a layer, or of a whole stream, with each state decomposed once."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.kernels import metrics as _kernels
from lostattn.metrics._checks import check_convention, check_same, check_state, check_tol
from lostattn.metrics._cores import side_by_side
from lostattn.metrics.mixing import mixing_settings


@checked_call
def stream_metrics(
    states: Sequence[Float[Tensor, "*batch pos d_model"]],
    convention: str = "paper",
    tol: float | int | None = None,
    mask: Bool[Tensor, "*batch pos"] | None = None,
    *,
    power: float | int | None = None,
    normalise: bool | None = None,
    rows: str | None = None,
) -> dict[str, Float[Tensor, "update *batch"]]:
    """ΔS, ΔD, RID and MixIG of every update along a residual stream.

    Args:
        states: X_0, X_1, … X_n in forward order. Under 'paper' any states; update u leads from X_u to X_{u+1}
            and is judged against X_u. Under 'released' the updates come in pairs,
            ``[resid_pre_0, resid_mid_0, resid_post_0 = resid_pre_1, resid_mid_1, …]``, and ΔS, ΔD and RID of
            both are judged against the layer's input; MixIG is still that of the one update, with the
            released weights.
        convention, tol, mask: as ``rid``.
        power, normalise, rows: as ``token_mixing_entropy``.

    Returns:
        ``delta_s``, ``column_innovation``, ``row_innovation``, ``delta_d``, ``rid`` and ``mixig``, each
        ``[update, *batch]``, float64.

    Raises:
        InputError: fewer than two states, an odd number of updates under 'released', a state that is empty,
            of a wrong kind or not finite in a real row, shapes that differ, or an argument that cannot be.
    """
    check_convention(convention)
    check_tol(tol)
    settings = mixing_settings(convention, power, normalise, rows)
    if len(states) < 2:
        raise InputError(f"states holds {len(states)}; expected at least two, the stream before and after an update.")
    released = convention == "released"
    if released and len(states) % 2 == 0:
        raise InputError(
            f"states holds {len(states)}, that is {len(states) - 1} updates; under convention='released' "
            "they come in "
            "pairs, attention then FFN: resid_pre of the first layer, then resid_mid and resid_post of each."
        )
    for i, state in enumerate(states):
        check_state(state, f"states[{i}]", mask)
        check_same(states[0], state, ("states[0]", f"states[{i}]"))
    with side_by_side(list(states)) as run:
        return _kernels.stream_metrics(list(states), mask, tol, released, *settings, run)


@checked_call
def update_metrics(
    pre: Float[Tensor, "*batch pos d_model"],
    mid: Float[Tensor, "*batch pos d_model"],
    post: Float[Tensor, "*batch pos d_model"],
    convention: str = "paper",
    tol: float | int | None = None,
    mask: Bool[Tensor, "*batch pos"] | None = None,
    *,
    power: float | int | None = None,
    normalise: bool | None = None,
    rows: str | None = None,
) -> dict[str, Float[Tensor, "update *batch"]]:
    """The metrics of one layer's two updates, attention first: ``stream_metrics([pre, mid, post], …)``."""
    return stream_metrics([pre, mid, post], convention, tol, mask, power=power, normalise=normalise, rows=rows)

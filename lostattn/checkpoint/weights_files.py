"""A checkpoint's weights put into its model: all of them, or it is said which are not there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from lostattn.checkpoint.config_file import first_line
from lostattn.errors import InputError, LostAttnError

_SHOWN = 4
# Buffers that older versions of transformers stored and that are computed now: no weights.
_COMPUTED = ("inv_freq", "position_ids", "masked_bias")


def whole_weights(make: Callable[[], tuple[Any, dict[str, Any]]], name: str, strict: bool) -> Any:
    """The model that ``make`` makes with what it says of its weights, as ``output_loading_info=True`` gives it.

    Raises:
        InputError: the files cannot be read; ``strict``, and weights are missing, which transformers fills with random
            numbers, or there are some that the model has no place for.
    """
    try:
        module, info = make()
    except (LostAttnError, MemoryError):
        raise
    except Exception as error:  # OSError, SafetensorError, RuntimeError, ValueError, KeyError, by what is damaged
        if type(error).__name__ == "OutOfMemoryError" or "does not support" in str(error):
            raise
        raise InputError(
            f"the weights of {name!r} cannot be loaded: {first_line(error)} Are its files whole, and all there?"
        ) from error
    if strict:
        _refuse_gaps(name, info)
    return module


def _refuse_gaps(name: str, info: dict[str, Any]) -> None:
    unused = [key for key in info.get("unexpected_keys", ()) if not key.endswith(_COMPUTED)]
    other = [key[0] if isinstance(key, tuple) else key for key in info.get("mismatched_keys", ())]
    wrong = {
        "lacks weights, which transformers fills with random numbers": info.get("missing_keys", ()),
        "holds weights of another shape": other,
        "holds weights that the model has no place for": unused,
    }
    said = [f"{what}: {_listed(keys)}" for what, keys in wrong.items() if keys]
    if said:
        raise InputError(
            f"the checkpoint of {name!r} {'; it '.join(said)}. Expected those of this very model. Is it whole, and "
            "of this version of transformers? Where that is meant, load it with strict=False."
        )


def _listed(keys: Collection[str]) -> str:
    shown = ", ".join(sorted(keys)[:_SHOWN])
    return shown if len(keys) <= _SHOWN else f"{shown} and {len(keys) - _SHOWN} more"

"""Settings of loading, held to what torch, transformers and this machine have before any weight is read."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import torch

from lostattn.arguments.described import described
from lostattn.arguments.kinds import is_device
from lostattn.errors import InputError, UnknownArgument, nearest

PLACES = ("auto", "balanced", "balanced_low_0", "sequential")


def check_settings(dtype: torch.dtype | str | None, attn_implementation: str, device_map: Any) -> None:
    """Refuse a dtype that torch has not, a kernel that transformers has not, a device that is not there.

    Raises:
        InputError: with what there is.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype not in (None, "auto") and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise InputError(
            f"dtype is {described(dtype)}; expected a torch dtype of floating-point numbers, its name such as "
            "'bfloat16', or 'auto'."
        )
    kernels = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
    if attn_implementation not in kernels and "/" not in attn_implementation:
        raise InputError(
            f"attn_implementation is {described(attn_implementation)}; transformers has {', '.join(kernels)}."
            f"{nearest(attn_implementation, kernels)}"
        )
    for place in device_map.values() if isinstance(device_map, dict) else [device_map]:
        _check_place(place, "disk" if isinstance(device_map, dict) else "")


def _check_place(place: Any, also: str) -> None:
    if place is None or (isinstance(place, str) and (place in PLACES or (also and place == also))):
        return
    number = isinstance(place, int) and not isinstance(place, bool) and place >= 0
    if isinstance(place, str | torch.device) or number:
        device = f"cuda:{place}" if number else place
        if is_device(device):
            return
    raise InputError(
        f"device_map is {described(place)}; expected {', '.join(map(repr, PLACES))}, or a device of this machine, such "
        f"as 'cpu'{_accelerators()}; or a dict of them by module."
    )


def _accelerators() -> str:
    n = torch.cuda.device_count()
    return f" or 'cuda:{n - 1}'" if n else " (no other is seen by torch here)"


def check_keywords(keywords: dict[str, Any], config: Any, own: tuple[str, ...]) -> None:
    """Refuse keywords that neither ``from_pretrained`` nor the config knows.

    Args:
        keywords: those that are passed on.
        config: the checkpoint's; its fields may be set by keyword.
        own: the parameters of :func:`lostattn.load`, among which the nearest is looked for, too.

    Raises:
        UnknownArgument: with the nearest.
        InputError: one that changes what is given back.
    """
    known = _from_pretrained()
    fields = config.to_dict() if hasattr(config, "to_dict") else {}
    for name in keywords:
        if name == "output_loading_info":
            raise InputError("output_loading_info= is asked for by la.load itself, which gives back the model alone.")
        if name not in known and name not in fields:
            near = nearest(name, [*own, *known]) or nearest(name, fields)
            raise UnknownArgument(
                f"la.load takes no argument {name!r}, nor do from_pretrained and this model's config.{near}"
            )


@functools.cache
def _from_pretrained() -> frozenset[str]:
    """What `from_pretrained` takes: its parameters, and the keywords that it takes out by name."""
    from transformers import PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    named: set[str] = set()
    for loader in (PreTrainedModel.from_pretrained, _BaseAutoModelClass.from_pretrained):
        named |= set(re.findall(r'kwargs\.(?:pop|get)\(\s*"([a-z]\w*)"', inspect.getsource(loader)))
        named |= set(inspect.signature(loader).parameters)
    return frozenset(named - {"kwargs", "model_args", "pretrained_model_name_or_path"})

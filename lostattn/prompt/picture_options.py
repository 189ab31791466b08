"""Options of how pictures are prepared, given with one prompt: ``images_kwargs=``, as in a call of the processor."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from lostattn.errors import InputError, nearest

_OURS = ("return_tensors", "data_format", "input_data_format", "device", "disable_grouping")
"""What the prompt itself depends on, or says nothing about pictures."""


def known_options(images: Any) -> list[str]:
    """The options that an image processor takes at a call; empty where it does not say."""
    declared = getattr(getattr(images, "valid_kwargs", None), "__annotations__", {})
    return sorted(name for name in declared if name not in _OURS)


def check_options(processor: Any, given: Any) -> dict[str, Any]:
    """The options as a dict of their own.

    Raises:
        InputError: no mapping; a model without an image processor; an option that the image processor does not take.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(
            "images_kwargs= takes the options of the image processor by name, for example "
            f"images_kwargs={{'do_resize': False}}; got {type(given).__name__}."
        )
    if not given:
        return {}
    images = getattr(processor, "image_processor", None)
    known = known_options(images)
    if not known:
        held = f"{type(processor).__name__}'s image processor takes none" if images else "it has no image processor"
        raise InputError(f"images_kwargs= was given {', '.join(map(repr, given))}, but of this model {held}.")
    for name in given:
        if name not in known:
            hint = " model.prompt sees to that one itself." if name in _OURS else nearest(str(name), known)
            raise InputError(
                f"images_kwargs= holds {name!r}, which cannot be given to {type(images).__name__} here.{hint}"
                f" It takes {', '.join(known)}."
            )
    return dict(given)


def as_called(processor: Any, options: Mapping[str, Any]) -> Any:
    """A processor whose settings say what a call with these options does; the processor itself where nothing differs.

    A call takes what is given with it, then what the processor's class or the processor lays down for every call
    (``images_kwargs``), then what the image processor holds. Whoever asks where the pixels of a picture went
    has to know what came of that. Nothing of the processor is changed.

    Args:
        processor: the model's processor.
        options: as they come out of `check_options`.

    Raises:
        InputError: a value that the image processor cannot take.
    """
    images: Any = getattr(processor, "image_processor", None)
    if not hasattr(processor, "_merge_kwargs") or not hasattr(images, "_standardize_kwargs"):
        return processor
    if not options and "images_kwargs" not in vars(processor):
        return processor
    try:
        tokenizer = getattr(getattr(processor, "tokenizer", None), "init_kwargs", {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the call itself says it
            merged = processor._merge_kwargs(tokenizer_init_kwargs=tokenizer, images_kwargs=dict(options))
            merged = merged["images_kwargs"]
            names = [*images.valid_kwargs.__annotations__]
            settings = images._standardize_kwargs(**{name: getattr(images, name, None) for name in names} | merged)
    except Exception as error:  # transformers raises its own, TypeError or ValueError, by option
        said = " ".join(str(error).split())
        raise InputError(f"images_kwargs={dict(options)} cannot be taken: {said}") from error
    shown, seen = copy.copy(images), copy.copy(processor)
    for name in names:
        if name in settings:
            setattr(shown, name, settings[name])
    seen.image_processor = shown
    seen.images_kwargs = {**(getattr(processor, "images_kwargs", None) or {}), **merged}
    return seen

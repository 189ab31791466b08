"""What of a model a prompt reaches: its hook points, its keys, and whether it is a prompt of this model at all."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lostattn.errors import InputError
from lostattn.names import split_block

if TYPE_CHECKING:
    from lostattn.anatomy import Architecture
    from lostattn.plan import Edit
    from lostattn.prompt import Prompt

PICTURES = ("pixel_values", "flattened_patches", "image_patches")  # what the inputs that hold pictures begin with


def has_picture(prompt: Prompt) -> bool:
    """Whether the vision tower runs on this prompt."""
    return holds_picture(prompt.inputs)


def holds_picture(names: Iterable[str]) -> bool:
    """Whether one of these inputs, or of the names that a ``forward`` takes, is of pictures."""
    return any(name.startswith(PICTURES) for name in names)


def takes_pictures(model: Any) -> bool:
    """Whether a model reads pictures at all: some that are listed with those that do read proteins, or text alone."""
    known = inspect.signature(model.forward).parameters
    return holds_picture(known) or getattr(model.config, "vision_config", None) is not None


def runs_once(prompt: Prompt) -> bool:
    """Whether the vision tower runs once on this prompt: with images and videos it runs for the one and the other."""
    return not {"pixel_values", "pixel_values_videos"} <= prompt.inputs.keys()


def of_vision(name: str) -> bool:
    """Whether a canonical name lies in the vision tower or the projector."""
    return name.startswith(("vision_encoder.", "vision_projector."))


def reached(prompt: Prompt, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that a pass on this prompt comes by."""
    seen = has_picture(prompt) and runs_once(prompt)
    return tuple(names) if seen else tuple(name for name in names if not of_vision(name))


def check_reached(prompt: Prompt, names: Iterable[str]) -> None:
    """Refuse names that were asked for one by one and that this prompt does not reach.

    Raises:
        InputError: a point of the vision tower or the projector, and a prompt without a picture, or with images and
            videos, where one name would stand for two passes through the tower.
    """
    missing = next(filter(of_vision, names), None)
    if missing is not None and has_picture(prompt) and not runs_once(prompt):
        raise InputError(
            f"{missing!r} is met twice on this prompt, which holds images and videos: the tower runs for the one and"
            " then for the other. Ask for it on a prompt of images or of videos alone."
        )
    if missing is not None and not has_picture(prompt):
        raise InputError(
            f"{missing!r} lies where pictures are seen, but the prompt holds none, so it is not reached. "
            "Give a picture, for example model.prompt(text, images=[picture])."
        )


def check_maker(prompt: Prompt, processor: Any, config: Any, name: str) -> None:
    """Refuse a prompt that another model's processor made: its ids and pixels mean something else here.

    Raises:
        InputError: the prompt's processor and the model's are of another class or vocabulary, or their towers take
            pictures of another size or in other patches.
    """
    from lostattn.prompt_inputs import maker_of

    own = maker_of(processor, config) if prompt.maker and processor is not None else ""
    if own and own != prompt.maker:
        raise InputError(
            f"this prompt was made by another model's processor ({prompt.maker}), but that of {name!r} is {own}: its "
            "token ids and pixels would mean something else here. Make it again with this model's own model.prompt(…)."
        )


def check_seen(prompt: Prompt, edits: Iterable[Edit], model: Any, architecture: Architecture) -> None:
    """Refuse edits of attention from queries that all stand before their keys: in a causal layer nothing would change.

    Layers that look both ways, or may (a prompt that marks its picture for it), are let pass.

    Raises:
        InputError: in no item does any of the queries see any of the keys.
    """
    if "token_type_ids" in prompt.inputs:
        return
    judged = set()
    for edit in edits:
        pair = (id(edit.queries), id(edit.keys))
        if edit.queries is None or edit.keys is None or edit.queries[1] or edit.keys[1] is None or pair in judged:
            continue
        place = split_block(edit.name)
        if place is None or place[0] != "blocks" or not _causal(model, architecture, place[1]):
            continue
        judged.add(pair)
        queries, keys = edit.queries[0], edit.keys[0].to(edit.queries[0].device)
        both = queries.any(-1) & keys.any(-1)
        n = queries.shape[-1]
        last = n - 1 - queries.flip(-1).int().argmax(-1)
        if both.any() and not (both & (last >= keys.int().argmax(-1))).any():
            raise InputError(
                f"the edit of {edit.name!r} is about queries that all stand before their keys, and a query sees only "
                "what comes before it, so nothing would change. Did you mean them the other way round? Choose keys "
                "that stand before some of the queries."
            )


def _causal(model: Any, architecture: Architecture, layer: int) -> bool:
    """Whether a layer says that its attention looks back only."""
    block = model.get_submodule(architecture.stack.blocks[layer].path)
    said = [module.is_causal for module in block.modules() if hasattr(module, "is_causal")]
    return bool(said) and all(said)

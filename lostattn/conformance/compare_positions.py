"""Where the picture is, as the token map says it, and as the bare model shows it: what moves when the pixels move.

The picture is replaced, and the streams of the two passes are held beside each other where they first part: that is
where its features were put in, and before any attention carried them on. What a tower makes for cross-attention is
looked at as the values that the decoder's layers are given. Of a quantised picture another one may have the same codes
in places; there every code is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lostattn.conformance.by_hand import by_hand
from lostattn.conformance.comparison import Absent, Comparison, Subject
from lostattn.conformance.inputs import moved_picture
from lostattn.conformance.sounds import moved_sound, with_sound
from lostattn.prompt.picture_inputs import holds_picture


def image_positions(subject: Subject) -> list[Comparison]:
    """How many positions (or keys of cross-attention) move with the picture and are not its own, or the other way."""
    prompt = subject.prompt
    if not holds_picture(prompt.inputs):
        raise Absent("the family takes no picture")
    cross = prompt.token_map.cross
    name = "image positions"
    if cross is None:
        return [_compared(name, prompt.token_map["image"], _streams(subject, prompt.token_map.part.shape))]
    if cross.part is not None:  # an encoder that reads text mixes the two: what it is given is looked at
        return [_compared(name, cross.resolve(), _streams(subject, cross.part.shape))]
    moved, visible = _values(subject)
    return [_compared(name, cross.resolve() & visible, moved & visible)]


def _compared(name: str, said: Tensor, moved: Tensor) -> Comparison:
    """How many positions are in one of the two and not in the other."""
    return Comparison(name, float((said != moved).sum()), 0.0)


def audio_positions(subject: Subject) -> list[Comparison]:
    """How many positions move with a sound and are not its own, or the other way; nothing where there are no sounds."""
    if subject.prompt.batch > 1 or "decoder_input_ids" in subject.prompt.inputs:
        return []
    inputs = with_sound(subject.bare, subject.model._inputs(subject.prompt))
    if inputs is None:
        return []
    token_map = subject.model.prompt(inputs=inputs).token_map
    moved = _parting(subject, inputs, moved_sound(inputs), token_map.part.shape)
    return [_compared("audio positions", token_map["audio"], moved)]


def _streams(subject: Subject, shape: Sequence[int]) -> Bool[Tensor, "batch pos"]:
    """At which positions the stream parts when the picture is another one.

    Args:
        subject: the family.
        shape: ``(batch, pos)`` of the stream: the decoder's, or that of an encoder before it.
    """
    inputs = subject.model._inputs(subject.prompt)
    return _parting(subject, inputs, moved_picture(inputs), shape)


def _parting(
    subject: Subject, inputs: dict[str, Any], other: dict[str, Any], shape: Sequence[int]
) -> Bool[Tensor, "batch pos"]:
    """At which positions the streams of two passes part, in the first layer that is given another."""
    bare, size = subject.bare, tuple(shape)
    if "decoder_input_ids" in inputs:  # the picture stands before what is decoded
        layers = _layers(bare.get_encoder())
    else:
        layers = [bare.get_submodule(block.path) for block in subject.model.architecture.stack.blocks]
    before = _given(bare, layers, inputs, size)
    with _other_codes(bare):
        after = _given(bare, layers, other, size)
    if len(before) != len(after) or not before:
        raise Absent("its layers are given no stream of the prompt's positions")
    parted = [_parted(one, two, size) for one, two in zip(before, after, strict=True)]
    return next((moved for moved in parted if moved.any()), parted[0])


@contextmanager
def _other_codes(bare: nn.Module) -> Iterator[None]:
    """Give every code of a quantised picture as the next one."""

    def other(module: Any, args: Any, out: Any) -> Any:
        n = module.embedding.num_embeddings
        if isinstance(out, Tensor):
            return (out + 1) % n
        return tuple(o if o is None or o.is_floating_point() else (o + 1) % n for o in out)

    hooks = [m.register_forward_hook(other) for path, m in bare.named_modules() if path.endswith("quantize")]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layers(module: nn.Module) -> list[nn.Module]:
    """All that stands in lists: the layers of an encoder, and those of the tower before it."""
    return [one for part in module.modules() if isinstance(part, nn.ModuleList) for one in part]


def _given(bare: Any, layers: Sequence[nn.Module], inputs: dict[str, Any], shape: tuple[int, ...]) -> list[Tensor]:
    """The streams of these positions that the layers are given, in the order of the calls."""
    seen: list[Tensor] = []

    def look(module: Any, args: Any, keywords: Any) -> None:
        value = args[0] if args else keywords.get("hidden_states")
        if isinstance(value, Tensor) and value.is_floating_point() and _axis(value, shape) is not None:
            seen.append(value.detach().clone())

    hooks = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
    try:
        with torch.no_grad():
            bare(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _axis(value: Tensor, shape: tuple[int, ...]) -> int | None:
    """Where in a stream its items are, with its positions behind; a stream may have lanes before or after."""
    return next((i for i in range(value.dim() - 2) if tuple(value.shape[i : i + 2]) == shape), None)


def _parted(one: Tensor, other: Tensor, shape: tuple[int, ...]) -> Bool[Tensor, "batch pos"]:
    axis = _axis(one, shape)
    assert axis is not None
    rest = [i for i in range(one.dim()) if i not in (axis, axis + 1)]
    return (one != other).sum(rest) > 0


def _values(subject: Subject) -> tuple[Bool[Tensor, "batch key"], Bool[Tensor, "batch key"]]:
    """Which keys of cross-attention bring other values, and which ones a token sees: padded tiles are masked."""
    inputs = subject.model._inputs(subject.prompt)
    before, weights = _crossing(subject, inputs)
    after, _ = _crossing(subject, moved_picture(inputs))
    # A row that sees nothing weighs all keys alike, and what it reads is dropped.
    sees = subject.prompt.token_map.real & (weights != weights[..., :1]).any(3).any(1)
    visible = ((weights > 0).any(1) & sees[:, :, None]).any(1)
    return (before != after).any(3).any(1), visible


def _crossing(subject: Subject, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The values and the weights of the first attention call from the decoder's positions to the map's keys."""
    token_map = subject.prompt.token_map
    assert token_map.cross is not None
    shape = (token_map.part.shape[1], token_map.cross.image_index.shape[1])
    with by_hand(subject.bare) as seen:
        subject.bare(**inputs)
    for path, calls in seen.weights.items():
        if tuple(calls[0].shape[2:]) == shape:
            return seen.values[path][0], calls[0]
    raise Absent(f"no attention from {shape[0]} positions to {shape[1]} keys was seen")

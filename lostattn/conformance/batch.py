"""Two items of unequal lengths, made from the inputs of one: the shorter is padded on the left."""

from __future__ import annotations

import torch
from torch import Tensor

from lostattn.conformance.inputs import moved_picture

SHORTER = 2  # tokens that the second item lacks


def two_items(inputs: dict[str, Tensor], known: set[str], decoder: bool, stacked: bool = False) -> dict[str, Tensor]:
    """A batch of the item, and of another with another picture and a shorter text.

    Args:
        inputs: of one item.
        known: the names that the model's ``forward`` takes.
        decoder: whether the positions are those of ``decoder_input_ids``.
        stacked: whether the patches of the two pictures have an axis for the picture, and are not laid end to end.
    """
    other = moved_picture(inputs)
    main = "decoder_input_ids" if decoder else "input_ids"
    if decoder and "decoder_attention_mask" in known:
        inputs, other = ({**one, "decoder_attention_mask": torch.ones_like(one[main])} for one in (inputs, other))
    n = inputs[main].shape[1]
    strip = not {"target_sizes", "tgt_sizes"}.isdisjoint(inputs) and inputs["pixel_values"].dim() == 4
    both = {}
    for name, value in inputs.items():
        second = other[name]
        by_position = value.dim() > 1 and value.shape[:2] == (1, n) and not name.startswith("pixel")
        if decoder:
            by_position = by_position and name.startswith("decoder_")
        if by_position:
            # What comes last stays last: the second to last tokens go.
            kept = torch.cat([second[:, : n - SHORTER - 1], second[:, -1:]], dim=1)
            second = torch.cat([torch.zeros_like(second[:, :SHORTER]), kept], dim=1)
        if stacked and name == "pixel_values":
            both[name] = torch.stack([value, second])
        else:  # patches side by side along one strip go on along it
            both[name] = torch.cat([value, second], -1 if name == "pixel_values" and strip else 0)
    return both

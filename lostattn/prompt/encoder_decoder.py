"""Prompts of encoder-decoders: the positions are the decoder's, the picture and the question are the encoder's.

`token_map.cross` says what every position of the encoder is, which are the keys of the decoder's cross-attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lostattn.errors import InputError
from lostattn.pictures.loading import load_pictures
from lostattn.prompt.batch import Prompt
from lostattn.prompt.cross_keys import CrossKeys
from lostattn.prompt.encoder_keys import Grids, boxed_keys, count_keys, patch_keys, text_keys
from lostattn.prompt.identity import digest
from lostattn.prompt.parts import CODE
from lostattn.prompt.picture_inputs import PICTURES
from lostattn.prompt.token_map import TokenMap

OWN = "decoder_"
"""What the inputs of the decoder begin with."""


def of_decoder(
    processor: Any,
    config: Any,
    inputs: Mapping[str, Tensor],
    read: Prompt | None,
    module: nn.Module | None,
    images: Any = None,
) -> Prompt:
    """A prompt of a decoder, whose encoder reads what the processor made.

    Args:
        processor: the model's processor.
        config: the model's config.
        inputs: the processor's whole output; without ``decoder_input_ids``, the decoder begins with its start token.
        read: the prompt of the encoder's text; None where it reads pictures alone.
        module: the model, which alone knows how many keys an encoder of patches makes.
        images: the pictures of each item, where known and `read` is None.

    Raises:
        InputError: inputs of which nothing reaches an encoder; no start token is known.
    """
    n = next((len(value) for name, value in inputs.items() if name.startswith((*PICTURES, "input_ids"))), None)
    if n is None:
        raise InputError(f"inputs= hold neither a picture nor text, only {', '.join(inputs) or 'nothing'}.")
    held = dict(inputs)
    if "decoder_input_ids" not in held:
        held["decoder_input_ids"] = torch.full((n, 1), _start(config, module))
    ids, mask = held["decoder_input_ids"], held.get("decoder_attention_mask")
    if mask is None:
        _check_unpadded(processor, config, ids)
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask != 0
    cross, grids = _keys(config, held, read, module)
    special = torch.tensor(sorted(getattr(processor.tokenizer, "all_special_ids", ())), dtype=torch.long)
    begins = real.long().cumsum(-1) == 1  # with its start token, which is no text
    template = begins | torch.isin(ids, special.to(ids.device))
    part = torch.where(template, CODE["template"], CODE["answer"])
    part = part.masked_fill(~real, CODE["padding"]).to(torch.int8)
    nowhere = torch.full_like(ids, -1)
    token_map = TokenMap(part, nowhere, nowhere.clone(), grids, (True,) * len(ids), cross)
    texts = tuple(tuple(processor.tokenizer.decode([i]) for i in row) for row in ids.tolist())
    if read is not None:
        return replace(read, inputs=held, token_map=token_map, str_tokens=texts)
    pictures = tuple(load_pictures(one, i) for i, one in enumerate(images or [None] * n))
    return Prompt(held, token_map, ("",) * n, pictures, tuple(_names(held, n)), texts)


def _check_unpadded(processor: Any, config: Any, ids: Tensor) -> None:
    """Refuse rows that are padded without a word on where: the first token may be that of padding, as T5's is.

    Raises:
        InputError: with what tells padding from tokens.
    """
    pad = getattr(processor.tokenizer, "pad_token_id", None)
    pad = getattr(config.get_text_config(decoder=True), "pad_token_id", None) if pad is None else pad
    if pad is None or ids.shape[1] < 2:
        return
    behind, before = ids[:, -1] == pad, (ids[:, :2] == pad).all(-1)
    if bool((behind | before).any()):
        item = int((behind | before).nonzero()[0])
        raise InputError(
            f"decoder_input_ids of item {item} {'end' if bool(behind[item]) else 'begin'} with the token of padding "
            f"({pad}), and there is no decoder_attention_mask, so where the item ends cannot be told, and the model "
            "would read padding as tokens. Give decoder_attention_mask in inputs=, 1 for tokens and 0 for padding."
        )


def encoder_config(config: Any) -> Any:
    """The config that says what a prompt of the encoder is made of: its own, where it has a tower's."""
    own = getattr(config, "encoder", None)
    return own if getattr(own, "vision_config", None) is not None else config


def _keys(
    config: Any, inputs: Mapping[str, Tensor], read: Prompt | None, module: nn.Module | None
) -> tuple[CrossKeys | None, Grids]:
    """What the keys of the cross-attention are, and the grids of each item's pictures."""
    if read is not None and "bbox" in inputs and "pixel_values" in inputs:
        return boxed_keys(config, inputs, read.token_map)
    if read is not None:
        return text_keys(read.token_map), read.token_map.grids
    n_keys = None if module is None else count_keys(module, inputs)
    if n_keys is None:
        return None, ((),) * len(inputs["decoder_input_ids"])
    return patch_keys(config, inputs, n_keys)


def _start(config: Any, module: nn.Module | None) -> int:
    """The token that a decoder begins with.

    Raises:
        InputError: no config says it.
    """
    holders = [
        getattr(module, "generation_config", None),
        config,
        *(getattr(config, name, None) for name in ("text_config", "decoder")),
    ]
    for holder in holders:
        for name in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(found := getattr(holder, name, None), int):
                return found
    raise InputError(
        f"{type(config).__name__} names no decoder_start_token_id; give decoder_input_ids in inputs=, the tokens that "
        "the decoder is to go on from."
    )


def _names(inputs: Mapping[str, Tensor], n: int) -> Sequence[str]:
    """The identity of each item: a hash of what it is made of."""
    held = [value for _, value in sorted(inputs.items()) if len(value) == n]
    return [digest([value[i].cpu().float().numpy().tobytes() for value in held]) for i in range(n)]

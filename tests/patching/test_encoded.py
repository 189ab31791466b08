"""Pictures encoded once: the same logits to the last bit, and the tower runs once for all passes of a sweep."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, batched, unequal, wrapped

from lostattn.patching.encoded import encoded_inputs
from lostattn.patching.sweeps import sweep


@pytest.mark.parametrize("family", FAMILIES)
def test_encoded_pictures_give_the_same_logits(family):
    model = wrapped(family)
    inputs = model._inputs(model.prompt(inputs=batched(family, unequal(family))))
    given = encoded_inputs(model, inputs)
    assert "pixel_values" in inputs and "pixel_values" not in given
    with torch.no_grad():
        want, got = (model.hf(**each, use_cache=False).logits for each in (inputs, given))
    assert torch.equal(got, want)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert encoded_inputs(model, text) is text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_encodes_its_pictures_once(family):
    model = wrapped(family)
    clean = model.prompt(inputs=unequal(family)[0])
    corrupted = model.prompt(inputs={**clean.inputs, "pixel_values": -clean.inputs["pixel_values"]})
    sizes = []
    tower = model.hf.model.vision_tower if family == "llava" else model.hf.model.visual
    handle = tower.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    try:
        sweep(
            model, clean, corrupted, lambda logits: logits[:, -1, 7], "z", heads="each", positions="last", batch_size=4
        )
    finally:
        handle.remove()
    alone = len(clean.inputs["pixel_values"])
    assert sizes == [alone, alone, 4 * alone]  # the two reference runs, and the copies

"""The plan: what is written down for a pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import wrapped

from lostattn.errors import InputError
from lostattn.plan.program import write
from lostattn.points.sites import Sites


def test_each_layer_brings_its_own_number_of_heads() -> None:
    """Layers of one stack may differ: a remote kernel must spread the keys of each as it does."""
    model = wrapped("qwen")
    stack = model.architecture.stack
    counts = [(6, 2), (4, 4), (3, 1)]
    blocks = tuple(
        replace(block, attn=replace(block.attn, n_heads=n, n_key_value_heads=kv))
        for block, (n, kv) in zip(stack.blocks, counts, strict=True)
    )
    sites = Sites(replace(model.architecture, stack=replace(stack, blocks=blocks)))
    vision = model.architecture.vision.stack
    names = [f"blocks.{i}.attn.hook_rot_q" for i in range(3)] + [f"{vision.prefix}.1.attn.hook_rot_q"]
    program = write(sites, model.operations, names)
    events = {event["path"]: (event["heads"], event["kv_heads"]) for event in program if "heads" in event}
    expected = {block.attn.path: count for block, count in zip(blocks, counts, strict=True)}
    assert events == {**expected, vision.blocks[1].attn.path: (vision.n_heads, vision.n_key_value_heads)}


def test_a_stream_that_nothing_is_known_to_be_added_to_is_read_only() -> None:
    model = wrapped("llava")
    stack = model.architecture.stack
    blocks = (replace(stack.blocks[0], attn_update=None), *stack.blocks[1:])
    sites = Sites(replace(model.architecture, stack=replace(stack, blocks=blocks)))
    with pytest.raises(
        InputError, match="'blocks.0.hook_resid_mid' can be read but not edited: no single module's out"
    ):
        sites.editable("blocks.0.hook_resid_mid")
    assert sites.editable("blocks.1.hook_resid_mid") == "blocks.1.hook_resid_mid"

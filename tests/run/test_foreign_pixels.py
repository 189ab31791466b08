"""Ids and pixel values that are of two calls of a processor: refused with the way, where the model meets them."""

from __future__ import annotations

import pytest

import lostattn as la
from lostattn.errors import InputError

TEXT = ("input_ids", "attention_mask", "mm_token_type_ids")


@pytest.mark.parametrize("places", [1, 2])
def test_other_pictures_than_places(tiny_model, shapes_questions, places):
    pictures = [question.images[0] for question in list(shapes_questions)[:2]]
    one, two = (tiny_model.prompt("Is it red?", images=pictures[:n]) for n in (1, 2))
    held, seen = (one, two) if places == 1 else (two, one)
    pixels = {name: value for name, value in seen.inputs.items() if name not in TEXT}
    inputs = {name: value for name, value in held.inputs.items() if name in TEXT} | pixels
    for run in (
        lambda prompt: tiny_model.run_with_cache(prompt),
        lambda prompt: tiny_model.generate(prompt, max_new_tokens=1),
        lambda prompt: tiny_model.run_with_hooks(prompt, interventions=la.Ablate("mlp", layers=[1])),
    ):
        with pytest.raises(InputError, match="one call of the processor|of one processor call|have no image tokens"):
            run(tiny_model.prompt(inputs=inputs))
    assert tiny_model(one).shape[0] == 1  # and the model is well afterwards

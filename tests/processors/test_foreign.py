"""Inputs that another family's processor made are refused where they are given, before any model sees them."""

from __future__ import annotations

import families
import pytest
from painting import noise, prompt

from lostattn.errors import InputError
from lostattn.prompt import build_prompt

# PaliGemma's processor makes an array of a tensor in a way that numpy is about to drop.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

NAMES = [name for name in families.MAKERS if name != "gemma3 with pan and scan"]
ALIKE = [{"qwen2_vl", "qwen2_5_vl"}, {"qwen3_vl", "qwen3_5"}]  # the same ids and the same pixels
PICTURE = noise(150, 130)


def given(to: str, inputs: dict):
    family = families.family(to)
    return build_prompt(family.processor, family.config, inputs=inputs)


@pytest.mark.parametrize("to", NAMES)
def test_no_family_takes_the_inputs_of_another(to):
    taken = set()
    for name in NAMES:
        try:
            given(to, prompt(name, PICTURE).inputs)
            taken.add(name)
        except InputError as error:
            made = f"not made by this model's {type(families.family(to).processor).__name__}: "
            assert made in str(error) or "have no image tokens" in str(error), name
    assert taken == next((pair for pair in ALIKE if to in pair), {to})


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("smolvlm", "llava", r"they hold the token id \d+, but the vocabulary has 332 tokens\. Make them with this"),
        ("llava_next", "llava", r"they hold image_sizes, and it makes pixel_values of pictures\."),
        ("llava", "llava_next", r"they lack image_sizes, which it makes of pictures\."),
        (
            "gemma3",
            "llava",
            r"of 896 x 896 pixels, and it makes 336 x 336; .* the same options here",
        ),
        ("mistral3", "pixtral", r"of 168 x 140 pixels, and it makes whole patches of 16 pixels"),
        ("qwen3_vl", "qwen2_vl", r"their patches are of 1536 numbers, and it makes patches of 1176\."),
    ],
)
def test_what_is_wrong_is_said(name, to, message):
    with pytest.raises(InputError, match=message):
        given(to, prompt(name, PICTURE).inputs)


@pytest.mark.parametrize("name", ["llava", "internvl", "gemma3"])
def test_pictures_without_a_token_for_them(name):
    """As of a model with the same pictures and another vocabulary."""
    inputs = dict(prompt(name, PICTURE).inputs)
    image = families.family(name).config.image_token_id
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == image, 9)
    with pytest.raises(InputError, match=r"\d image\(s\) in the pixel values have no image tokens"):
        given(name, inputs)


def test_text_alone_goes_to_any_model_whose_vocabulary_holds_it():
    for to in ("llava", "qwen3_vl", "mllama"):
        assert given(to, {"input_ids": prompt("llava").inputs["input_ids"]}).batch == 1

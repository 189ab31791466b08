"""Gradient times input, patch by patch, against bare autograd and single patches moved by hand."""

from __future__ import annotations

import functools

import pytest
import torch
from tiny import FAMILIES, INPUTS, MAKERS, bare, batched, unequal, wrapped
from torch.testing import assert_close

from lostattn import answers, lenses
from lostattn.errors import InputError
from lostattn.model.load import load


@functools.cache
def double(family: str):
    return load(MAKERS[family](dtype=torch.float64), selftest=False)


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 17]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_patches_of_the_pixels_add_up_to_bare_autograd(family: str) -> None:
    model, inputs = wrapped(family), INPUTS[family]()
    found = lenses.input_attribution(model, model.prompt(inputs=inputs), metric, "pixels")
    pixels = inputs["pixel_values"].clone().requires_grad_()
    metric(bare(family)(**{**inputs, "pixel_values": pixels}).logits).sum().backward()
    product = (pixels.grad * pixels).detach()
    assert_close(found.sum(), product.sum(), rtol=1e-3, atol=1e-4)
    if family == "llava":  # the patch of row 2 and column 3: seven pixels a side
        assert_close(found[2 * 5 + 3], product[0, :, 14:21, 21:28].sum(), rtol=1e-3, atol=1e-5)
    else:  # the second token: the second four of the tower's patches
        assert_close(found[1], product[4:8].sum(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("item", [0, 1])
def test_one_token_moved_by_hand(family: str, item: int) -> None:
    """Scale what the decoder is handed of one patch by a little: the logit moves by the patch's number times that."""
    model = double(family)
    prompt = model.prompt(inputs=batched(family, unequal(family)))
    found = lenses.input_attribution(model, prompt, metric, item=item)
    patch = int(found.abs().argmax())
    alone = prompt[item]
    at = int((alone.token_map.patch_index[0] == patch).nonzero()[0])
    ends = []
    for step in (0.02, -0.02):

        def scaled(x, hook, factor=1 + step):
            x[:, at] *= factor

        ends.append(float(metric(model.run_with_hooks(alone, [("blocks.0.hook_resid_pre", scaled)]))))
    assert float(found[patch]) == pytest.approx((ends[0] - ends[1]) / 0.04, rel=2e-2)


def test_what_is_not_there_is_refused() -> None:
    model = wrapped("llava")
    prompt = model.prompt(inputs=INPUTS["llava"]())
    with pytest.raises(InputError, match="of is 'words'; expected 'tokens' or 'pixels'"):
        lenses.input_attribution(model, prompt, metric, "words")
    with pytest.raises(InputError, match="item 0 or its image 1 is not there"):
        lenses.input_attribution(model, prompt, metric, image=1)


def test_it_is_drawn_over_the_picture(tiny_model, shapes_questions) -> None:
    question = shapes_questions.only("comparison")[0]
    metric = answers.metric(tiny_model, question)
    for of in ("tokens", "pixels"):
        figure = lenses.input_figure(tiny_model, question, metric, of, image=1)
        assert figure.axes and any(
            "Gradient times input" in t.get_text() for t in (figure.axes[0].title, *figure.texts)
        )
        values = lenses.input_attribution(tiny_model, question, metric, of, image=1)
        shown = max((image.get_array().size for axes in figure.axes for image in axes.images), default=0)
        assert values.abs().max() > 0 and shown > 0

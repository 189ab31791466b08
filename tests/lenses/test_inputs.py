"""Gradient times input, patch by patch, against bare autograd and single patches moved by hand."""

from __future__ import annotations

import functools

import bounds
import pytest
import torch
from tiny import FAMILIES, INPUTS, MAKERS, batched, rounding, unequal, wrapped

from lostattn import answers, lenses
from lostattn.errors import InputError
from lostattn.model.load import load


@functools.cache
def double(family: str):
    return load(MAKERS[family](dtype=torch.float64), selftest=False)


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 17]


def by_autograd(family: str, dtype: torch.dtype) -> torch.Tensor:
    """Gradient times input of a bare model's pixels, added up over the patches of each token by hand."""
    inputs = INPUTS[family]()
    pixels = inputs["pixel_values"].to(dtype).requires_grad_()
    metric(MAKERS[family](dtype=dtype)(**{**inputs, "pixel_values": pixels}).logits).sum().backward()
    product = (pixels.grad * pixels).detach()
    if family == "llava":  # five rows of five patches, of seven pixels a side
        return product[0].unflatten(1, (5, 7)).unflatten(3, (5, 7)).sum((0, 2, 4)).flatten()
    return product.unflatten(0, (-1, 4)).sum((1, 2))  # four patches of the tower to a token


@pytest.mark.parametrize("family", FAMILIES)
def test_the_patches_of_the_pixels_add_up_to_bare_autograd(family: str) -> None:
    model, inputs = wrapped(family), INPUTS[family]()
    found = lenses.input_attribution(model, model.prompt(inputs=inputs), metric, "pixels").double()
    plain, exact = (by_autograd(family, dtype) for dtype in (torch.float32, torch.float64))
    off = bounds.beside(plain, exact)
    torch.testing.assert_close(found, exact, rtol=0, atol=off)
    torch.testing.assert_close(found.sum(), exact.sum(), rtol=0, atol=off * len(found))
    assert exact.abs().max() > 1e3 * off


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

    def scaled_by(step: float) -> float:
        def scaled(x, hook):
            x[:, at] *= 1 + step

        return float(metric(model.run_with_hooks(alone, [("blocks.0.hook_resid_pre", scaled)])))

    # The models' own norms work in single precision.
    noise = rounding(family) / bounds.EDITED * float(model(alone).abs().max())
    expected, off = bounds.slope(scaled_by, 0.08, noise)
    assert abs(expected) > 100 * off
    assert float(found[patch]) == pytest.approx(expected, rel=0, abs=off)


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

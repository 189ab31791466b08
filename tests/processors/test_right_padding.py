"""Every family's inputs, padded behind their items: the last real position is read, as of each item alone."""

from __future__ import annotations

import bounds
import families
import pytest
import torch
from PIL import Image

import lostattn as la
from lostattn.prompt.padded_logits import PaddedLogits

QUESTIONS = ["How many red squares there are?", "Is it red?"]
FIRST, SECOND = 3, 5  # two tokens


def padded_behind(prompt):
    """Its inputs, with each item's padding rolled behind it."""
    real, moved = prompt.token_map.real, {}
    for name, value in prompt.inputs.items():
        rows = value.dim() > 1 and value.shape[:2] == real.shape
        before = (~real).sum(-1).tolist()
        moved[name] = torch.stack([v.roll(-n, 0) for v, n in zip(value, before, strict=True)]) if rows else value
    return moved


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # PaliGemma's
@pytest.mark.parametrize("name", families.MAKERS)
def test_an_answer_is_read_where_each_item_ends(name: str) -> None:
    family = families.family(name)
    model = la.load(families.model(name), processor=family.processor, selftest=False)
    picture = Image.new("RGB", (48, 40), (200, 30, 30))
    mark = "<image>" if family.name == "paligemma" else ""  # without a chat template
    texts = [mark + question for question in QUESTIONS]
    prompt = model.prompt(texts, images=[[picture], [picture]])
    behind = model.prompt(inputs=padded_behind(prompt))
    assert prompt.token_map.real[:, -1].all() and behind.token_map.real[:, -1].tolist() == [True, False]
    logits = model(behind)
    assert isinstance(logits, PaddedLogits)
    alone = torch.cat([model(model.prompt(text, images=[picture]))[:, -1] for text in texts])
    share = 20 * bounds.depth(model.cfg)
    tokens = torch.tensor([FIRST] * 2), torch.tensor([SECOND] * 2)
    bounds.close(la.answers.logit_difference(logits, *tokens), alone[:, FIRST] - alone[:, SECOND], share, size=alone)
    bounds.close(
        la.answers.answer_probability(logits, tokens[0]), alone.softmax(-1)[:, FIRST], share * alone.abs().max()
    )
    assert bounds.moved(logits.as_subclass(torch.Tensor)[1, -1], alone[1], share)  # what stands at the padding

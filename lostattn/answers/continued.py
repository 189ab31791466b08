"""What follows a prompt when a text is said next: its tokens, with the blank that belongs between the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.assemble import placeholder
from lostattn.prompt.batch import Prompt
from lostattn.prompt.rendering import has_template

Tokens = tuple[int, ...]
_SEEN = 24  # tokens at a prompt's end from which the rest is told: more than any template's opening of an answer


def tokens_behind_texts(model: HookedModel, texts: Sequence[str], answers: Sequence[str]) -> list[Tokens]:
    """The tokens of an answer to each question, which is put through the template."""
    if not texts:
        return []
    mark = placeholder(model.processor, model.hf.config)
    asked = [text.replace(mark, "") if mark else text for text in texts]  # the words alone say what follows them
    if not has_template(model.processor):
        answers = [spaced(text, answer) for text, answer in zip(asked, answers, strict=True)]
    prompt = model.prompt(asked, answer=list(answers))
    ids, said = prompt.inputs["input_ids"], prompt.token_map["answer"]
    return [
        _without_end(model, row[own.to(row.device)].tolist(), text)
        for row, own, text in zip(ids, said, answers, strict=True)
    ]


def tokens_behind(model: HookedModel, prompt: Prompt, answer: str) -> Tokens:
    """The tokens of an answer that follows a prompt of one item.

    Where the prompt ends as the template opens an answer, they are what the template makes of it; behind anything else
    (an answer so far, a text without a template) the answer goes on with the text.
    """
    ids = prompt.inputs["decoder_input_ids" if "decoder_input_ids" in prompt.inputs else "input_ids"][0]
    last = ids[prompt.token_map.real[0].to(ids.device)].tolist()[-_SEEN:]
    if has_template(model.processor):
        example = model.prompt("?")
        opening = _behind_question(example)
        if opening and last[-len(opening) :] == opening:
            return tokens_behind_texts(model, ["?"], [answer])[0]
    return _going_on(model.processor.tokenizer, last, answer)


def spaced(text: str, answer: str) -> str:
    """An answer with a blank before it where its first word would grow onto the last word of a text."""
    return f" {answer}" if text[-1:].isalnum() and answer[:1].isalnum() else answer


def _behind_question(example: Prompt) -> list[int]:
    """What the template puts behind a question: the ids that open an answer."""
    asked: Tensor = example.token_map["question"][0]
    if not asked.any():
        return []
    end = int(asked.nonzero().max()) + 1
    opening: list[int] = example.inputs["input_ids"][0, end:].tolist()
    return opening


def _going_on(tokenizer: Any, last: list[int], answer: str) -> Tokens:
    """The tokens of an answer behind the last ones of a text."""
    tail = tokenizer.decode(last, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    said = spaced(tail, answer)

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    before, both = ids(tail), ids(tail + said)
    if both[: len(before)] == before and len(both) > len(before):
        return tuple(both[len(before) :])
    return tuple(ids(said))  # a token reaches over the border; what follows the prompt begins a new one


def _without_end(model: HookedModel, ids: list[int], answer: str) -> Tokens:
    """The ids of an answer without what a tokenizer puts behind every text."""
    special = set(model.processor.tokenizer.all_special_ids)
    while len(ids) > 1 and ids[-1] in special and model.processor.tokenizer.decode([ids[-1]]) not in answer:
        ids = ids[:-1]
    return tuple(ids)

"""Generation under interventions: the prompt's pass, then one pass a token, each under the same plan."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nnsight
import torch
from jaxtyping import Int
from torch import Tensor

from lostattn.errors import InputError
from lostattn.kernels.walker import run_pass
from lostattn.plan import Program

if TYPE_CHECKING:
    from lostattn.model import LVLM
    from lostattn.prompt import Prompt


@dataclass(frozen=True)
class Generation:
    """What was generated: ``text`` and ``tokens`` of each prompt, and ``sequences`` with the prompt in front."""

    text: tuple[str, ...]
    tokens: Int[Tensor, "batch new"]
    sequences: Int[Tensor, "batch pos"]

    def __repr__(self) -> str:
        return f"Generation of {len(self.text)}: {list(self.text)!r}"


def generate_under(
    model: LVLM, prompt: Prompt, program: Program, max_new_tokens: int, keywords: dict[str, Any]
) -> Generation:
    """Generate while the walker runs the program at every step.

    Raises:
        InputError: fewer than one token asked for, or beams (their reordering would mix up the items).
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; expected at least 1.")
    if keywords.get("num_beams", 1) != 1:
        raise InputError(f"num_beams is {keywords['num_beams']}; interventions are defined for one beam only.")
    settings = {"do_sample": False, "max_new_tokens": max_new_tokens, **keywords}
    inputs = model._inputs(prompt)
    memory: dict[str, Any] = {}
    with warnings.catch_warnings(), torch.no_grad():
        # The open loop over steps ends by design when the model stops producing them.
        warnings.filterwarnings("ignore", message=".*was never reached.*")
        with model.nn.generate(**settings) as tracer:
            if program:
                with tracer.invoke(**inputs):
                    for step in tracer.iter[:]:
                        run_pass(model.nn, tracer, program, memory, step)
                with tracer.invoke():
                    sequences = nnsight.save(tracer.result)
            else:
                with tracer.invoke(**inputs):
                    sequences = nnsight.save(tracer.result)
    tokens = sequences[:, prompt.n_pos :]
    decoder = getattr(model.processor, "tokenizer", None)
    text = tuple(decoder.batch_decode(tokens, skip_special_tokens=True)) if decoder else ("",) * len(prompt)
    return Generation(tuple(t.strip() for t in text), tokens, sequences)

"""What a generation under interventions gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from lostattn.model import LVLM


@dataclass(frozen=True)
class Generation:
    """What was generated: ``text`` and ``tokens`` of each prompt, and ``sequences`` with the prompt in front."""

    text: tuple[str, ...]
    tokens: Int[Tensor, "batch new"]
    sequences: Int[Tensor, "batch pos"]

    def __repr__(self) -> str:
        return f"Generation of {len(self.text)}: {list(self.text)!r}"

    @classmethod
    def read(cls, model: LVLM, sequences: Int[Tensor, "batch pos"], n_prompt: int, n_items: int) -> Generation:
        """Read the ids that a model gave after ``n_prompt`` positions of ``n_items`` prompts."""
        tokens = sequences[:, n_prompt:]
        decoder = getattr(model.processor, "tokenizer", None)
        text = tuple(decoder.batch_decode(tokens, skip_special_tokens=True)) if decoder else ("",) * n_items
        return cls(tuple(t.strip() for t in text), tokens, sequences)

"""What a generation under interventions gives: the text, and what was kept at the prompt and at every step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lostattn.arguments import checked_call
from lostattn.cache.activation_cache import ActivationCache, Key
from lostattn.errors import InputError
from lostattn.plan.touch_record import Touched, said_nowhere
from lostattn.points.names import is_square
from lostattn.run.generated_attention import GeneratedAttention, generated_attention


@checked_call
@dataclass(frozen=True)
class Generation:
    """What was generated, and what was kept on the way.

    Attributes:
        text: of each prompt, without special tokens.
        tokens: what was generated; an item that ended before the others is filled up with padding.
        sequences: the same with the prompt in front.
        cache: what ``names_filter`` asked for, of every position that the model was fed: the prompt's, and one for
            each generated token but the last. Row ``i`` holds what position ``i`` was when it was computed, so it
            equals the row of a single pass without a KV cache. Its prompt, ``cache.prompt``, holds the generated
            tokens as ``"answer"``, so everything that a cache and a prompt are good for works on it. None where
            nothing was asked for.
        scores: with ``output_scores=True``, what each token was chosen by, after everything that is made of the logits.
        logits: with ``output_logits=True``, the logits of the row that chose each token.
        output: what transformers itself gave where it was asked for more than tokens and ran without interventions and
            ``names_filter``, here: scores of beams, for example.
        touched: where the edits acted, and which of them acted nowhere; None without interventions.

    With ``num_return_sequences=k`` each prompt stands ``k`` times, one after another.
    """

    text: tuple[str, ...]
    tokens: Int[Tensor, "batch new"]
    sequences: Int[Tensor, "batch pos"]
    cache: ActivationCache | None = field(default=None, repr=False, compare=False)
    alive: Bool[Tensor, "batch new"] | None = field(default=None, repr=False, compare=False)
    str_tokens: tuple[tuple[str, ...], ...] = field(default=(), repr=False, compare=False)
    scores: Float[Tensor, "batch new d_vocab"] | None = field(default=None, repr=False, compare=False)
    logits: Float[Tensor, "batch new d_vocab"] | None = field(default=None, repr=False, compare=False)
    output: Any = field(default=None, repr=False, compare=False)
    touched: Touched | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        kept = f"; {self.cache!r}" if self.cache is not None else ""
        idle = "" if self.touched is None or not self.touched.nowhere else f"; {said_nowhere(self.touched.nowhere)}"
        return f"Generation of {len(self.text)}: {list(self.text)!r}{kept}{idle}"

    @property
    def steps(self) -> Steps:
        """One step a generated token: ``generation.steps[i]["resid_post", 3]`` is the row that token ``i`` came from.

        Raises:
            InputError: nothing was kept.
        """
        return Steps(self, self._kept())

    def image_attention(
        self, layers: Iterable[int] | int | None = None, item: int = 0, image: int = 0
    ) -> GeneratedAttention:
        """How much each generated token looked at each patch of an image: the row that chose it, by layer and head.

        Args:
            layers: which layers (None: all whose pattern was kept).
            item: which item of the batch.
            image: which of its images.

        Raises:
            InputError: nothing or no pattern was kept; a layer, item or image that is not there; an image whose grid
                is not known.
        """
        chosen = [step for step in self.steps if bool(step.alive[item])] if 0 <= item < len(self.text) else []
        tokens = tuple(step.str_tokens[item] for step in chosen)
        return generated_attention(self._kept(), [step.row for step in chosen], tokens, layers, item, image)

    def _kept(self) -> ActivationCache:
        if self.cache is None:
            raise InputError(
                "this generation kept nothing; say what to keep: "
                "model.generate(prompt, names_filter=lambda name: name.endswith('hook_pattern'))."
            )
        return self.cache


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """One generated token of every item, and what was kept at the row that chose it.

    Attributes:
        index: 0 is the token that the prompt's own pass gave.
        tokens: the token of each item.
        str_tokens: as text.
        alive: which items had not ended before it; what the others hold means nothing.
        row: the position that was last in this pass.
        cache: the whole generation's.
    """

    index: int
    tokens: Int[Tensor, "batch"]
    str_tokens: tuple[str, ...]
    alive: Bool[Tensor, "batch"]
    row: int
    cache: ActivationCache

    def __getitem__(self, key: Key) -> Tensor:
        """The row of a point: ``[batch, …]`` without the position axis; of scores and patterns ``[batch, head, key]``.

        Raises:
            InputError: a point of the vision tower, which has no row of a step.
        """
        name = self.cache.name_of(key)
        if name.startswith("vision"):
            raise InputError(f"{name!r} was computed at the prompt alone; read it of generation.cache.")
        if not is_square(name):
            return self.cache[name][:, self.row]
        return self.cache.rows(name, [self.row])[:, :, 0, : self.row + 1]

    def __repr__(self) -> str:
        return f"Step {self.index}: {list(self.str_tokens)!r}"


class Steps(Sequence[Step]):
    """The steps of a generation, one a generated token."""

    def __init__(self, generation: Generation, cache: ActivationCache) -> None:
        self._generation, self._cache = generation, cache

    def __len__(self) -> int:
        return int(self._generation.tokens.shape[1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = range(len(self))[index]
        g = self._generation
        alive = torch.ones_like(g.tokens, dtype=torch.bool) if g.alive is None else g.alive
        row = int(g.sequences.shape[1]) - len(self) - 1 + i
        texts = tuple(own[i] for own in g.str_tokens)
        return Step(i, g.tokens[:, i], texts, alive[:, i], row, self._cache)

    def __iter__(self) -> Iterator[Step]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"{len(self)} steps: " + " ".join(repr(text) for own in self._generation.str_tokens[:1] for text in own)


def before_the_end(tokens: Int[Tensor, "batch new"], ends: Sequence[int]) -> Bool[Tensor, "batch new"]:
    """Which tokens an item chose itself: all up to the first that ends it, that one too."""
    ended = torch.isin(tokens, torch.tensor(list(ends), dtype=tokens.dtype, device=tokens.device))
    return ended.cumsum(1) - ended.long() == 0

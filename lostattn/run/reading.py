"""What came back of a call, read: logits, numbers, a cache or a generation."""

from __future__ import annotations

from typing import Any

import torch

from lostattn.cache.activation_cache import ActivationCache
from lostattn.plan.touch_record import Touched
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.prompt.padded_logits import with_ends
from lostattn.prompt.token_ids import token_text
from lostattn.run.calls import Raw, Reading
from lostattn.run.generation import Generation, before_the_end
from lostattn.run.generation_passes import extended_prompt, joined_steps


def read(reading: Reading, model: HookedModel, raw: Raw, prompt: Prompt | None) -> Any:
    """What a call's caller asked for, of the plain values that the pass gave.

    The prompt is only needed for what a cache tells about positions.
    """
    if reading.kind == "logits":
        return with_ends(raw["logits"], reading.last)
    if reading.kind == "numbers":
        return raw["kept"]
    if reading.kind == "measures":
        return raw["kept"], with_ends(raw["logits"], reading.last) if "logits" in raw else None
    if reading.kind == "raw":
        return raw
    if reading.kind == "generation":
        return _generation(reading, model, raw, prompt)
    under = reading.interventions
    cache = ActivationCache(raw["kept"], reading.names, model.sites, model.hf, prompt, interventions=under)
    cache.touched = touched_in(reading, raw)
    return with_ends(raw["logits"], reading.last), _moved(reading, cache)


def touched_in(reading: Reading, raw: Raw) -> Touched | None:
    """Where the edits of a pass acted; None where there were none."""
    return Touched.of(reading.edits, raw.get("touched")) if reading.edits else None


def _moved(reading: Reading, cache: ActivationCache) -> ActivationCache:
    """A cache on the device and in the dtype that were asked for."""
    if reading.device is None and reading.dtype is None:
        return cache
    return cache.to(reading.device, getattr(torch, reading.dtype) if reading.dtype else None)


def _generation(reading: Reading, model: HookedModel, raw: Raw, prompt: Prompt | None) -> Generation:
    """What a model generated after ``reading.n_pos`` positions of ``reading.n_items`` prompts."""
    sequences = raw["sequences"]
    tokens = sequences[:, reading.n_pos :]
    decoder = getattr(model.processor, "tokenizer", None)
    text = tuple(decoder.batch_decode(tokens, skip_special_tokens=True)) if decoder else ("",) * len(tokens)
    texts = tuple(tuple(token_text(decoder, i) if decoder else "" for i in own) for own in tokens.tolist())
    alive = before_the_end(tokens, reading.ends)
    cache = None
    if reading.names:
        fed = None if prompt is None else extended_prompt(prompt, tokens[:, :-1], alive[:, :-1], texts)
        kept = joined_steps(raw["steps"], tokens.shape[1])
        under = reading.interventions
        cache = _moved(reading, ActivationCache(kept, reading.names, model.sites, model.hf, fed, interventions=under))
        cache.touched = touched_in(reading, raw)
    chosen_by = {name: raw.get(name) for name in ("scores", "logits", "output")}
    return Generation(
        tuple(t.strip() for t in text),
        tokens,
        sequences,
        cache,
        alive,
        texts,
        **chosen_by,
        touched=touched_in(reading, raw),
    )

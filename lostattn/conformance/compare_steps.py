"""The same at decoding steps: patterns and edits with a cache of keys and values, growing or of fixed length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lostattn.checkpoint.no_processor import NoProcessor
from lostattn.conformance.by_hand import HandEdit, Seen, by_hand
from lostattn.conformance.compare_edits import identities, logits_moved, name_of, uniform_by_hand, unlike_bits
from lostattn.conformance.comparison import NEAR, Absent, Comparison, Subject, finite, largest, relative
from lostattn.interventions.attention import ReplaceAttention
from lostattn.interventions.sources import Uniform
from lostattn.plan.compiling import compile_edits
from lostattn.plan.program import Edit, write
from lostattn.prompt.token_ids import image_token_id
from lostattn.run.calls import Call, Reading
from lostattn.run.local import run_here

TOKENS = 4  # the prompt's pass gives the first; three cached steps follow
SETTINGS = {"do_sample": False, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}


def steps(subject: Subject, cache: str | None = None, allowed: float = NEAR) -> list[Comparison]:
    """Patterns, the identity and the uniform edit at the prompt's pass and at three steps after it."""
    boundaries = subject.boundaries
    if not boundaries:
        raise Absent("no layer calls transformers' attention interface")
    settings = {**SETTINGS, **({} if cache is None else {"cache_implementation": cache})}
    picture = image_token_id(NoProcessor(), subject.bare.config)
    if picture is not None:
        settings["suppress_tokens"] = [picture]  # a picture's token without a picture cannot be read again
    if subject.bare.config.is_encoder_decoder:
        settings["decoder_start_token_id"] = int(subject.prompt.inputs["decoder_input_ids"][0, 0])
    bare = _bare(subject, settings)
    if len(bare.logits) != TOKENS:
        raise Absent(f"the unembedding runs {len(bare.logits)} times in a generation of {TOKENS} tokens")
    store: dict[str, list[Tensor]] = {}
    watching = [Edit(f"{name}.hook_pattern", kept_rows, {"store": store, "name": name}) for name in boundaries]
    same = _ours(subject, settings, [*watching, *identities(boundaries)])
    worst, real = 0.0, subject.prompt.token_map.real
    for name, path in boundaries.items():
        pairs = zip(store[name], bare.weights[path], strict=True)
        worst = max([worst, *(largest(a, b, _with_new(real, t)) for t, (a, b) in enumerate(pairs))])
    unlike = max(unlike_bits(a, b) for a, b in zip(same, _last(bare), strict=True))
    made = [Comparison("patterns", worst, allowed), Comparison("identity", unlike, 0.0)]
    for keys in subject.choices:
        expected = _bare(subject, settings, uniform_by_hand(subject, keys))
        edit = ReplaceAttention(Uniform(), keys=keys, queries="last")
        found = _ours(subject, settings, compile_edits(subject.model, edit, subject.prompt))
        gaps = [relative(finite(a), finite(b)) for a, b in zip(found, _last(expected), strict=True)]
        made.append(Comparison(name_of(keys), max(gaps), allowed))
        made.append(logits_moved(f"{name_of(keys)} moves", found[-1], _last(bare)[-1], real))
        if cache is None:
            made.append(_without_cache(subject, keys, bare, expected, found, allowed))
    return made


def _with_new(real: Tensor, step: int) -> Tensor:
    """The rows that are no padding, and those of the tokens since: of a family that goes over all of them each time."""
    return torch.cat([real, real.new_ones(len(real), step)], dim=1)


def kept_rows(x: Any, cells: Any, here: Any, store: dict[str, list[Tensor]], name: str) -> Any:
    """Remember the pattern that an edit is given."""
    store.setdefault(name, []).append(x.detach().clone())
    return x


def _last(seen: Seen) -> list[Tensor]:
    return [logits[:, -1] for logits in seen.logits]


def _bare(subject: Subject, settings: dict[str, Any], edit: HandEdit | None = None) -> Seen:
    """A generation of the bare model, watched and edited by hand.

    Raises:
        Absent: transformers refuses.
    """
    if not subject.bare.can_generate():
        raise Absent("transformers does not generate with this class")
    unembed = subject.model.architecture.unembed
    try:
        with by_hand(subject.bare, edit, unembed) as seen:
            seen.tokens = subject.bare.generate(**_inputs(subject), **settings)
    except Exception as error:  # whatever transformers says
        said = " ".join(str(error).split())
        raise Absent(f"the bare model does not generate: {type(error).__name__}: {said[:160]}") from error
    return seen


def _inputs(subject: Subject) -> dict[str, Any]:
    """What ``generate`` takes of a prompt: not every class takes there all that its ``forward`` does."""
    inputs = subject.model._inputs(subject.prompt)
    if not subject.bare.config.is_encoder_decoder:
        return {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    if subject.bare.main_input_name != "input_ids":
        return {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    return inputs


def _ours(subject: Subject, settings: dict[str, Any], edits: list[Edit]) -> list[Tensor]:
    """The logits of each step of a generation under edits."""
    model, logits = subject.model, []
    program = write(model.sites, model.operations, (), edits)
    unembed = model.hf.get_submodule(model.architecture.unembed)
    hook = unembed.register_forward_hook(lambda _, args, out: logits.append(out[:, -1].detach().clone()))
    call = Call(_inputs(subject), program, Reading("generation"), generation=settings)
    try:
        run_here(model.nn, call.plain())
    finally:
        hook.remove()
    return logits


def _without_cache(
    subject: Subject, keys: str, bare: Seen, expected: Seen, found: list[Tensor], allowed: float
) -> Comparison:
    """The steps of the edited generation against one pass over the same tokens that knows no cache."""
    name = f"{name_of(keys)} without a cache"
    inputs = subject.model._inputs(subject.prompt)
    n = subject.prompt.token_map.part.shape[1]

    def logits(seen: Seen, edit: HandEdit | None, kind: int | None) -> Tensor:
        longer = {k: _longer(k, v, n, seen.tokens[:, -TOKENS:-1], subject, kind) for k, v in inputs.items()}
        with by_hand(subject.bare, edit, subject.model.architecture.unembed) as whole:
            subject.bare(**longer, use_cache=False)
        return whole.logits[0][:, n - 1 :]

    drifts: dict[int | None, float] = {}
    for kind in (None, 1):  # a family may tell the tokens of an answer by their type: only they see no further
        try:
            plain = logits(bare, None, kind)
        except Exception as error:  # whatever the model says to text after its prompt
            said = " ".join(str(error).split())
            return Comparison(name, None, allowed, f"no single pass over prompt and answer: {said[:120]}")
        drifts[kind] = relative(finite(plain), finite(torch.stack(_last(bare), 1)))
        if drifts[kind] <= allowed:
            edited = logits(expected, uniform_by_hand(subject, keys, without_cache=True), kind)
            return Comparison(name, relative(finite(torch.stack(found, 1)), finite(edited)), allowed)
    drift = min(drifts.values())
    return Comparison(name, None, allowed, f"untouched, the family gives other logits with a cache ({drift:.0e})")


def _longer(name: str, value: Tensor, n: int, tokens: Tensor, subject: Subject, kind: int | None) -> Tensor:
    """An input of the prompt with the generated tokens behind it; ``kind`` is their type, if it is not the last's."""
    decoder = bool(subject.bare.config.is_encoder_decoder)
    own = name.startswith("decoder_") if decoder else value.dim() > 1 and value.shape[:2] == (len(tokens), n)
    if not own or name.startswith("pixel"):
        return value
    if name in ("input_ids", "decoder_input_ids"):
        return torch.cat([value, tokens], dim=1)
    last = value[:, -1:].expand(-1, tokens.shape[1], *value.shape[2:])
    if name == "token_type_ids" and kind is not None:
        last = torch.full_like(last, kind)
    if name == "position_ids":
        last = last + torch.arange(1, tokens.shape[1] + 1)
    return torch.cat([value, last], dim=1)

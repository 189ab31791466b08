"""The settings of one generation, brought together from wherever they were laid down, and held to what is exact."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import logits_process
from transformers.generation.utils import GenerationMixin

from lostattn.arguments.described import described
from lostattn.arguments.kinds import is_whole
from lostattn.errors import InputError, UnknownName, nearest
from lostattn.points.hooked_model import HookedModel
from lostattn.prompt.batch import Prompt
from lostattn.run.generation_settings import CACHES, EXACT, IDLE, REFUSED, ROUNDED, is_off

FIELDS = frozenset(n for n in vars(GenerationConfig()) if not n.startswith("_") and n != "transformers_version")
OF_CALL = frozenset(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
BESIDE = frozenset({"tokenizer", "assistant_tokenizer", "trust_remote_code", "past_key_values", "cache_params"})
PROMPTS = frozenset({"inputs", "input_ids", "inputs_embeds", "decoder_input_ids", "encoder_outputs"})
RECORDED = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
MAKERS = {  # what refuses a value, which transformers would make in the middle of a generation
    "temperature": logits_process.TemperatureLogitsWarper,
    "top_k": logits_process.TopKLogitsWarper,
    "top_p": logits_process.TopPLogitsWarper,
    "min_p": logits_process.MinPLogitsWarper,
    "top_h": logits_process.TopHLogitsWarper,
    "typical_p": logits_process.TypicalLogitsWarper,
    "repetition_penalty": logits_process.RepetitionPenaltyLogitsProcessor,
    "no_repeat_ngram_size": logits_process.NoRepeatNGramLogitsProcessor,
}
HERE, CONFIG, CHECKPOINT = "", " of generation_config=", " of the checkpoint's generation config"
NEW_TOKENS = 20


@dataclass(frozen=True)
class Settled:
    """What a generation runs with.

    Attributes:
        keywords: what goes to the Hugging Face ``generate``.
        steps: how many passes there are at the most, the prompt's among them.
        copies: how often each item of the prompt stands in the batch.
        ends: the ids that end an item.
        caches: whether keys and values are kept between steps.
    """

    keywords: dict[str, Any]
    steps: int
    copies: int
    ends: tuple[int, ...]
    caches: bool


def settled(
    model: HookedModel, prompt: Prompt, max_new_tokens: int | None, keywords: Mapping[str, Any], watched: bool
) -> Settled:
    """Bring together keywords, ``generation_config=`` and what the checkpoint lays down, in that order of weight.

    ``watched``: whether edits or kept points ride along, so that only what is exact may be asked for.

    Raises:
        UnknownName: a setting that transformers does not know, with the nearest names.
        InputError: one that is refused, by name, wherever it was set; values that cannot be meant.
    """
    given = _given(model, prompt, keywords)
    laid_down = _set(getattr(model.hf, "generation_config", None))
    _check_old_config(model, "generation_config" in keywords)
    source = dict.fromkeys(laid_down, CHECKPOINT) | dict.fromkeys(_set(keywords.get("generation_config")), CONFIG)
    source |= dict.fromkeys((name for name in keywords if name != "generation_config"), HERE)
    given["max_new_tokens"] = steps = _steps(prompt, max_new_tokens, given)
    given.setdefault("do_sample", False)
    every = {**laid_down, **given}
    if any(every.get(name) for name in RECORDED):
        given["return_dict_in_generate"] = True
    if every.get("stop_strings") is not None and every.get("tokenizer") is None:
        given["tokenizer"] = _tokenizer(model)
    copies = _copies(every)
    if watched:
        _check_exact(model, every, source)
        given |= _carried_out(model, every)
        if copies > 1:  # the prompt itself is made longer, so that edits, masks and seeds go by its items
            given["num_return_sequences"] = 1
    _check_values(model, given)
    known = _ends(every.get("eos_token_id"))
    caches = {**every, **given}.get("use_cache") is not False
    return Settled(given, steps, copies if watched else 1, known, caches)


def _ends(given: Any) -> tuple[int, ...]:
    """The tokens that end a text.

    Raises:
        InputError: something that is no id.
    """
    ends = given.tolist() if isinstance(given, Tensor) else given
    several = [] if ends is None else list(ends) if isinstance(ends, list | tuple | set) else [ends]
    if not all(map(is_whole, several)):
        raise InputError(f"eos_token_id is {described(given)}; expected a token's id, or a list of them.")
    return tuple(map(int, several))


def _set(config: Any) -> dict[str, Any]:
    """What a generation config says that is not left open, entries of somebody's own among it."""
    held = {} if config is None else vars(config)
    return {n: v for n, v in held.items() if v is not None and not n.startswith("_") and n != "transformers_version"}


def _given(model: HookedModel, prompt: Prompt, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords, and under them what ``generation_config=`` says; every name is one that transformers knows."""
    config = keywords.get("generation_config")
    if config is not None and not isinstance(config, GenerationConfig):
        raise InputError(
            f"generation_config is {type(config).__name__}; expected a transformers.GenerationConfig, such as "
            "GenerationConfig(do_sample=True), or the settings as keywords."
        )
    parts = PROMPTS | set(prompt.inputs)
    forward = set(inspect.signature(model.hf.forward).parameters) - {"self", "kwargs"}
    own = set(inspect.signature(model.hf.generate).parameters) - {"self", "kwargs"}
    known = FIELDS | OF_CALL | BESIDE | forward | own
    for name in keywords:
        if name in parts:
            raise InputError(
                f"{name}= is a part of the prompt: give it there, model.prompt(inputs={{…, {name!r}: …}})."
            )
        if name not in known:
            raise UnknownName(f"generate knows no setting {name!r}.{nearest(name, known - parts)}")
    for name in _set(config):
        if name not in FIELDS:
            raise UnknownName(f"generation_config= holds {name!r}, which is no setting.{nearest(name, FIELDS)}")
    usual = GenerationConfig._get_default_generation_params()
    plain = {name: value for name, value in keywords.items() if name != "generation_config"}
    opened = {n: usual.get(n) if v is None and n in FIELDS else v for n, v in plain.items()}
    return {**_set(config), **opened}


def _check_old_config(model: HookedModel, has_config: bool) -> None:
    """Settings in the model's own config, which transformers no longer reads and refuses to run beside."""
    held: dict[str, Any] = getattr(model.hf.config, "_get_generation_parameters", dict)()
    if held and not has_config:
        raise InputError(
            f"the model's config holds settings of a generation ({', '.join(sorted(held))}), which transformers no "
            "longer reads there. Take them out of model.hf.config, and set model.hf.generation_config or keywords."
        )


def _steps(prompt: Prompt, max_new_tokens: int | None, given: dict[str, Any]) -> int:
    """How many tokens at the most; ``max_length`` is taken out of what is given."""
    length = given.pop("max_length", None)
    in_config = given.pop("max_new_tokens", None)
    asked = in_config if max_new_tokens is None else max_new_tokens
    if length is not None:
        if asked is not None:
            raise InputError(f"max_length is {length} and max_new_tokens {asked}; give one of them.")
        if not isinstance(length, int) or length <= prompt.n_pos:
            raise InputError(
                f"max_length is {length!r}, and the prompt has {prompt.n_pos} positions already; expected more than "
                "that, or max_new_tokens=."
            )
        return length - prompt.n_pos
    steps = NEW_TOKENS if asked is None else asked
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InputError(f"max_new_tokens is {steps!r}; expected at least 1.")
    return steps


def _copies(every: Mapping[str, Any]) -> int:
    found = every.get("num_return_sequences")
    copies = 1 if found is None else found
    if not isinstance(copies, int) or isinstance(copies, bool) or copies < 1:
        raise InputError(f"num_return_sequences is {copies!r}; expected at least 1.")
    if copies > 1 and not every.get("do_sample") and every.get("num_beams") in (None, 1):
        raise InputError(
            f"num_return_sequences is {copies} without sampling, so all of them would be the same: pass do_sample=True."
        )
    return copies


def _tokenizer(model: HookedModel) -> Any:
    found = getattr(model.processor, "tokenizer", None)
    if found is None:
        raise InputError("stop_strings needs a tokenizer, and this model was loaded without one: pass tokenizer=.")
    return found


def _check_exact(model: HookedModel, every: Mapping[str, Any], source: Mapping[str, str]) -> None:
    """Refuse what is not known to leave one pass a token, wherever it was set."""
    for name, value in every.items():
        said = f"{name}{source.get(name, HERE)} is {_short(value)}"
        if name in REFUSED:
            rule = REFUSED[name]
            if not is_off(value, rule.off):
                raise InputError(
                    f"{said}; interventions are defined for one pass a token: {rule.why}. Take {rule.instead}; "
                    f"{_way_out(name, rule.off, source.get(name, HERE))}"
                )
        elif name not in EXACT | IDLE and value is not None:
            raise InputError(
                f"{said}; it is not known to leave a generation one pass a token. Leave it out, "
                f"{_way_out(name, (None,), source.get(name, HERE))}"
            )
    kind = every.get("cache_implementation")
    if not isinstance(kind, str | None) or kind not in CACHES:
        raise InputError(ROUNDED.format(said=f"cache_implementation{source['cache_implementation']} is {kind!r}"))


def _way_out(name: str, off: tuple[Any, ...], where: str) -> str:
    if where == CHECKPOINT:
        usual = off[-1] if len(off) > 2 else None
        return f"or set model.hf.generation_config.{name} = {usual}, or run without interventions."
    return "or run without interventions and names_filter."


def _carried_out(model: HookedModel, every: Mapping[str, Any]) -> dict[str, Any]:
    """The one way of carrying the passes out: the prompt whole, keys and values kept, nothing compiled.

    Neither pieces of a prompt nor a cache change what a pass gives; both change which rows a pass has, by which edits
    go. So they are left to transformers only where nothing rides along.
    """
    carried: dict[str, Any] = {}
    if every.get("prefill_chunk_size") is not None:
        carried["prefill_chunk_size"] = None
    if every.get("use_cache") is False and "past_key_values" in inspect.signature(model.hf.forward).parameters:
        carried["use_cache"] = True
    kind = every.get("cache_implementation")
    if CACHES[kind] != kind:
        carried["cache_implementation"] = CACHES[kind]
    if CACHES[kind] == "static":
        carried["disable_compile"] = True
    return carried


def _check_values(model: HookedModel, given: Mapping[str, Any]) -> None:
    """Let transformers look at the values, before anything runs."""
    usual = GenerationConfig._get_default_generation_params()
    config = copy.deepcopy(getattr(model.hf, "generation_config", None)) or GenerationConfig()
    try:
        config.update(**{name: value for name, value in given.items() if name in FIELDS})
        for name, maker in MAKERS.items():
            if given.get(name) not in (None, usual.get(name)):
                maker(given[name])
    except (ValueError, TypeError) as error:
        raise InputError(f"these settings cannot be meant: {error}") from error


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, bool | int | float | str | list | tuple | dict | None) else ""
    return text if text and len(text) <= 80 else type(value).__name__

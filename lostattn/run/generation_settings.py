"""Settings of a generation: those known to be exact under interventions, and those that are not, with the reason.

An edit acts at a step, and a step is one pass of the model that gives each item one token. A setting is exact where it
leaves that so: it says what is made of a pass's logits, when to end, or what is given back. What makes other passes,
more of them, or mixes the items up is refused while edits or kept points ride along; without them it is transformers'
own affair. A setting that stands in none of these lists is refused until somebody has put it to the test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# What is made of the logits of a pass.
CHOOSING = frozenset(
    """do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff repetition_penalty
    encoder_repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids renormalize_logits
    forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens sequence_bias watermarking_config logits_processor prefix_allowed_tokens_fn min_length
    min_new_tokens""".split()
)

# When a generation ends, and what stands for its ends.
ENDING = frozenset(
    """max_length max_new_tokens max_time stop_strings stopping_criteria tokenizer eos_token_id pad_token_id
    bos_token_id decoder_start_token_id""".split()
)

# What is given back.
GIVING = frozenset(
    "num_return_sequences return_dict_in_generate output_scores output_logits logits_to_keep streamer".split()
)

# How the same passes are carried out; :mod:`lostattn.run.merged_settings` brings them to the one way that is proved.
CARRYING = frozenset("use_cache cache_implementation prefill_chunk_size max_cache_len disable_compile".split())

EXACT = CHOOSING | ENDING | GIVING | CARRYING

# What says something only beside a setting that is refused, so that alone it changes nothing.
IDLE = frozenset(
    """early_stopping length_penalty num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
    max_matching_ngram_size assistant_lookbehind target_lookbehind assistant_ensemble_weight assistant_tokenizer
    trust_remote_code""".split()
)

# Kinds of caches: what each is under interventions. transformers itself takes "hybrid" for the growing one, and makes
# the fixed one of the other two.
CACHES = {None: None, "dynamic": None, "hybrid": None, "static": "static", "sliding_window": "static",
          "hybrid_chunked": "static"}  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """Why a setting is refused under interventions, what to do instead, and the values that ask for nothing."""

    why: str
    instead: str
    off: tuple[Any, ...] = (None, False)


_BEAMS = "several beams share one pass and are reordered after it, so no row of it belongs to one text"
_ONE_BEAM = "num_beams=1, or do_sample=True with num_return_sequences="
_DRAFTS = "drafted tokens are checked several a pass, and some are taken back, so a step is no longer one token"
_OWN_CACHE = "a cache that is filled already holds the keys of a pass that no edit has seen"
_HELD = "they are read past the edits, or not made at all by the kernel"

REFUSED = {
    "num_beams": Refusal(_BEAMS, _ONE_BEAM, (None, False, 1)),
    "num_beam_groups": Refusal(_BEAMS, _ONE_BEAM, (None, False, 1)),
    "diversity_penalty": Refusal(_BEAMS, _ONE_BEAM, (None, False, 0)),
    "constraints": Refusal(_BEAMS, "logits_processor= or prefix_allowed_tokens_fn="),
    "force_words_ids": Refusal(_BEAMS, "logits_processor= or sequence_bias="),
    "penalty_alpha": Refusal(
        "contrastive search tries several tokens in one pass of more items", "do_sample=True with top_k=", (None, 0)
    ),
    "low_memory": Refusal("it cuts the candidates of beams into passes of their own", _ONE_BEAM),
    "dola_layers": Refusal(
        "DoLa chooses tokens by the logits of other layers, outside the pass that edits are made in",
        "logits_processor=, and the layers' own logits with cache.logit_lens()",
    ),
    "guidance_scale": Refusal(
        "guidance makes a second pass for each token, of another prompt, which edits would act on as if it were a step",
        "two generations of your own, with and without, and logits_processor=",
        (None, 1),
    ),
    "negative_prompt_ids": Refusal("guidance makes a second pass for each token", "logits_processor="),
    "negative_prompt_attention_mask": Refusal("guidance makes a second pass for each token", "logits_processor="),
    "assistant_model": Refusal(_DRAFTS, "the model by itself"),
    "prompt_lookup_num_tokens": Refusal(_DRAFTS, "the model by itself", (None, False, 0)),
    "assistant_early_exit": Refusal(_DRAFTS, "the model by itself"),
    "use_mtp": Refusal(_DRAFTS, "the model by itself"),
    "speculation_type": Refusal(_DRAFTS, "the model by itself"),
    "is_assistant": Refusal(_DRAFTS, "the model by itself"),
    "token_healing": Refusal(
        "it takes the last tokens of the prompt away, so positions are other ones than the prompt says",
        "a prompt that ends where you mean it to end",
    ),
    "output_attentions": Refusal(_HELD, "names_filter=lambda name: name.endswith('hook_pattern')"),
    "output_hidden_states": Refusal(_HELD, "names_filter=lambda name: name.endswith('hook_resid_post')"),
    "cache_config": Refusal("it is for caches that round or move keys and values", "no cache_config"),
    "past_key_values": Refusal(_OWN_CACHE, "cache_implementation='static', or nothing"),
    "cache_params": Refusal(_OWN_CACHE, "nothing: it is made anew"),
    "compile_config": Refusal(
        "edits are made in the model's own modules, which a compiled pass runs past", "no compile_config"
    ),
    "continuous_batching_config": Refusal("requests of several users share a pass there", "a prompt of several items"),
    "custom_generate": Refusal("what passes it makes is not known", "logits_processor= or stopping_criteria="),
    "synced_gpus": Refusal("it makes passes that give no token", "one process"),
}

ROUNDED = (
    "{said}; interventions are proved with a growing cache ('dynamic') and one of fixed length ('static'); a "
    "quantised one rounds the keys and values that later rows read, and the others keep them elsewhere: leave it out, "
    "or take one of the two."
)


def is_off(value: Any, off: tuple[Any, ...]) -> bool:
    """Whether a value asks for nothing; numbers are compared as such, tensors and objects by being there at all."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return plain and any(value is one or (one is not None and value == one) for one in off)

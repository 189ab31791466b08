"""Models that PEFT has put its own model around: the Hugging Face model inside, with the adapters in its layers."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from lostattn.errors import InputError, UnsupportedModel

# Kinds that do something beside the layers: per call, per token, or in a network of their own.
_BESIDE = {
    "XLORA": "it weighs its adapters anew for each token of a first pass",
    "POLY": "it asks for the number of a task at each call",
    "SHADOW": "it runs a second network beside the model's own",
}


def without_wrapper(model: nn.Module) -> nn.Module:
    """The Hugging Face model that a ``PeftModel`` holds, its adapters in place; any other model itself.

    Raises:
        UnsupportedModel: an adapter that acts elsewhere than in the layers, so that the model inside would be another.
    """
    if not any(kind.__name__ in ("PeftModel", "PeftMixedModel") for kind in type(model).__mro__):
        return model
    wrapper: Any = model
    for name, config in dict(wrapper.peft_config).items():
        reason = _beside_the_layers(config)
        if reason:
            kind = getattr(config.peft_type, "value", config.peft_type)
            raise UnsupportedModel(
                f"the adapter {name!r} ({kind}) acts beside the model's layers: {reason}. What it does would be left "
                "out here. Load the model without it, or merge it where PEFT can (merge_and_unload())."
            )
    inside: nn.Module = wrapper.get_base_model() if hasattr(wrapper, "get_base_model") else wrapper.base_model.model
    return inside


def with_adapter(model: nn.Module, source: str, revision: str | None) -> nn.Module:
    """A model with the adapter in its layers that PEFT reads from a folder or a Hugging Face id.

    Raises:
        InputError: PEFT cannot read it, or it does not fit this model.
        UnsupportedModel: see :func:`without_wrapper`.
    """
    import peft

    options = {} if revision is None else {"revision": revision}
    try:
        with warnings.catch_warnings():
            # PEFT warns of layers for which nothing was saved, and hands out a model in which they do nothing.
            warnings.filterwarnings("error", message=".*Found missing adapter keys")
            adapted = peft.PeftModel.from_pretrained(model, source, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, UserWarning) as error:
        first = str(error).strip().splitlines()
        raise InputError(
            f"the adapter in {source} cannot be put into {type(model).__name__}: {(first or [repr(error)])[0][:300]}. "
            "Is it the model that it was made for (base_model_name_or_path)?"
        ) from error
    return without_wrapper(adapted)


def switched_on(model: nn.Module) -> str:
    """Which adapters act in each layer of a model, merged or not, and how strongly; empty where it has none."""
    said = []
    for path, module in model.named_modules():
        if "base_layer" in module._modules or "original_module" in module._modules:
            names = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")
            said.append(f"{path}: {[getattr(module, name, None) for name in names]}")
    return "\n".join(said)


def _beside_the_layers(config: Any) -> str:
    """What an adapter does that no layer does by itself; empty where it acts in the layers alone."""
    if getattr(config, "is_prompt_learning", False):
        return "it puts vectors of its own before the prompt, or keys and values before each layer's"
    if getattr(config, "is_adaption_prompt", False):
        return "it lets attention look at vectors of its own"
    if getattr(config, "alora_invocation_tokens", None):
        return "it acts only after certain tokens of a prompt"
    return _BESIDE.get(getattr(config.peft_type, "value", str(config.peft_type)), "")

"""Which class a checkpoint is loaded as: an image-text-to-text model, or a decoder of text alone."""

from __future__ import annotations

from typing import Any

from lostattn.errors import UnsupportedModel


def is_text_only(config: Any) -> bool:
    """Whether a config is of a causal language model that takes no pictures."""
    pictures, text = _tables()
    kind = getattr(config, "model_type", None)
    return kind in text and kind not in pictures


def class_of(config: Any) -> Any:
    """The class of transformers that a config is loaded as; ``None`` for one whose code comes with its checkpoint."""
    import transformers

    pictures, text = _tables()
    name = pictures.get(config.model_type) or text.get(config.model_type)
    return getattr(transformers, name) if name else None


def loader(config: Any) -> Any:
    """What loads a checkpoint of this config: one of transformers' automatic classes, or the class itself."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    if is_text_only(config):
        return AutoModelForCausalLM
    if type(config) in AutoModelForImageTextToText._model_mapping or class_of(config) is None:
        return AutoModelForImageTextToText
    return class_of(config)  # listed under its name, and not found by its config


def check_kind(config: Any, name: str) -> None:
    """Refuse what is neither an image-text-to-text model nor a decoder of text.

    Raises:
        UnsupportedModel: with what was looked for and what was found.
    """
    pictures, text = _tables()
    kind, found = config.model_type, list(getattr(config, "architectures", None) or [])
    if kind in pictures or hasattr(config, "auto_map"):
        return
    if kind not in text:
        raise UnsupportedModel(
            f"{name!r} is a {kind!r} model; expected an image-text-to-text model or a decoder of text: looked for "
            f"{kind!r} among the {len(pictures)} families of the one and the {len(text)} of the other that "
            "transformers lists, and found it in neither."
        )
    if found and text[kind] not in found:
        # An encoder, or a decoder without its unembedding: transformers would make up the weights that are missing.
        raise UnsupportedModel(
            f"{name!r} holds a {' or '.join(found)}; expected an image-text-to-text model or a decoder of text with "
            f"its unembedding, which for {kind!r} is {text[kind]}."
        )


def _tables() -> tuple[dict[str, str], dict[str, str]]:
    """The classes of both kinds, by the name of their family."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    tables = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    pictures, text = ({k: v if isinstance(v, str) else v[0] for k, v in table.items()} for table in tables)
    return pictures, text

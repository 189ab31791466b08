"""A checkpoint's config, read before anything heavy, and what can be wrong with it told in its own words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lostattn.errors import InputError, UnknownName, UnsupportedModel, nearest


def read_config(source: str, name: str, options: dict[str, Any], bundled: Iterable[str]) -> Any:
    """The config of a folder or a model on the hub.

    Args:
        source: the folder, or the name on the hub.
        name: what the caller called it.
        options: revision and the like, as transformers takes them.
        bundled: the names of the models that come with the package.

    Raises:
        UnknownName: there is no such model.
        InputError: its config cannot be read, or holds values that transformers refuses.
        UnsupportedModel: it says no type of model, or one that transformers does not know.
    """
    from transformers import AutoConfig

    folder = Path(source)
    if folder.is_dir():
        _check_config_file(folder, name)
    elif folder.is_file():
        raise InputError(f"{name!r} is a file; expected a Hugging Face id, or the folder of a checkpoint.")
    try:
        return AutoConfig.from_pretrained(source, **options)
    except Exception as error:  # transformers raises OSError, ValueError, TypeError, KeyError or its own, by family
        said = first_line(error)
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{name!r} comes with code of its own, which runs here only where it is asked for: read it, then load "
                "it with trust_remote_code=True."
            ) from error
        if folder.is_dir():
            raise InputError(f"the config of {name!r} cannot be read: {said}") from error
        raise UnknownName(
            f"no model is called {name!r}: not among the bundled {list(bundled)}, no folder, and not found on the hub "
            f"({said}){nearest(name, bundled)}"
        ) from error


def _check_config_file(folder: Path, name: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} has no config.json; expected a folder that save_pretrained wrote.")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(
            f"{folder} holds no checkpoint that can be read: its 'config.json' is not a valid JSON file ({error})."
        ) from error
    kind = held.get("model_type") if isinstance(held, dict) else None
    if not isinstance(kind, str):
        raise UnsupportedModel(
            f"the config.json of {name!r} says no model_type; expected the config of a model, as save_pretrained "
            "writes it, such as {'model_type': 'llava', …}."
        )
    if kind not in CONFIG_MAPPING_NAMES and "auto_map" not in held:
        raise UnsupportedModel(
            f"{name!r} is a {kind[:80]!r} model, which this version of transformers does not know."
            f"{nearest(kind, CONFIG_MAPPING_NAMES)}"
        )


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0][:300] if lines else type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."

"""A checkpoint that holds an adapter alone: which model it was made for, and what reading it needs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from lostattn.errors import InputError
from lostattn.saved.reading import read_json
from lostattn.saved.shape import checked, either

_CONFIG = "adapter_config.json"
_WHAT = "configuration of an adapter"
_SHAPE = {"base_model_name_or_path?": either(None, str), "revision?": either(None, str)}


@dataclass(frozen=True)
class Adapter:
    """An adapter of PEFT's: where it lies, the model that it belongs to, and that model's revision."""

    source: str
    base: str
    base_revision: str | None


def adapter_at(source: str, revision: str | None = None) -> Adapter | None:
    """The adapter that a folder or a Hugging Face id holds in place of a model; ``None`` where there is none.

    Raises:
        InputError: it does not say which model it was made for, or PEFT, which reads it, is not installed. Of a folder
            that holds a model too, PEFT is asked for as well: without it transformers would leave the adapter out.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(source, revision=revision)
    except OSError:
        return None  # no such id, or it cannot be reached
    if found is None:
        return None
    base, base_revision = read_adapter(Path(found))
    _check_peft(source, base)
    if (Path(source) / "config.json").is_file():
        return None  # a whole model, with its adapter beside it: transformers loads both
    if not base:
        raise InputError(
            f"{source} holds an adapter alone, and its {_CONFIG} does not say which model it was made for "
            "(base_model_name_or_path): load that model and give PEFT's, la.load(PeftModel.from_pretrained(model, "
            f"{source!r}))."
        )
    return Adapter(source, base, base_revision)


def read_adapter(path: Path) -> tuple[str | None, str | None]:
    """The model that an ``adapter_config.json`` names, and its revision.

    Raises:
        InputError: it is no such file.
    """
    said = checked(read_json(path, _WHAT), _SHAPE, str(path), _WHAT)
    return said.get("base_model_name_or_path"), said.get("revision")


def _check_peft(source: str, base: str | None) -> None:
    if importlib.util.find_spec("peft") is None:
        raise InputError(
            f"{source} holds an adapter ({_CONFIG}) for {base or 'a model that it does not name'}, and PEFT, which "
            "reads it, is not installed: pip install peft. Or merge it where PEFT is (merge_and_unload()), save the "
            "whole model, and load that."
        )

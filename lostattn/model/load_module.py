"""Finding a model and its processor: bundled, on the hub, in a folder, or loaded already."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lostattn.checkpoint.adapter_folder import Adapter, adapter_at
from lostattn.checkpoint.attention_choice import Choice, with_kernel
from lostattn.checkpoint.config_file import read_config
from lostattn.checkpoint.kinds import check_kind, class_of, is_text_only, loader
from lostattn.checkpoint.load_settings import check_keywords, check_settings
from lostattn.checkpoint.processors import load_processor
from lostattn.checkpoint.text_processor import as_processor, load_text_processor
from lostattn.checkpoint.weights_files import whole_weights
from lostattn.errors import InputError, UnknownName
from lostattn.weights.adapters import with_adapter, without_wrapper
from lostattn.zoo import names, path

_OF_PROCESSORS = (
    "processor_config.json",
    "preprocessor_config.json",
)  # one saved beside an adapter is whole with these
# What la.load takes by name, among which a name that is not known is looked for.
SETTINGS = (
    "dtype", "device_map", "attn_implementation", "processor", "revision", "trust_remote_code", "selftest", "remote",
    "strict",
)  # fmt: skip


def load_module(
    model: str | Path | nn.Module,
    processor: Any,
    dtype: torch.dtype | str | None,
    device_map: Any,
    attn_implementation: str,
    revision: str | None,
    trust_remote_code: bool,
    keywords: dict[str, Any],
    described: bool = False,
    strict: bool = True,
) -> tuple[nn.Module, Any, str]:
    """The Hugging Face model, its processor (``None`` where a loaded model names none), and a name for it.

    ``described`` builds its modules without their weights, from the config alone; ``strict`` refuses a checkpoint whose
    weights are not those of its model.

    Raises:
        UnknownName: nothing is called that.
        InputError: the folder holds no readable checkpoint; a setting of loading is given for a loaded model.
        UnsupportedModel: there is such a checkpoint, but it is neither an image-text-to-text model nor a decoder of
            text.
    """
    if hasattr(model, "_orig_mod"):
        raise InputError(
            "the model went through torch.compile, and what is compiled runs past every hook point: load the model as "
            "it was before, la.load(model._orig_mod)."
        )
    if isinstance(model, nn.Module):
        model = without_wrapper(model)
        settings = {"dtype": dtype, "device_map": device_map, "revision": revision, **keywords}
        name = getattr(model, "name_or_path", "") or type(model).__name__
        _check_loaded(model, name, settings, attn_implementation)
        found = as_processor(processor) if processor is not None else _processor_of_loaded(model, name)
        return model, found, name
    source, name = _source(str(model))
    known: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = _config_or_adapter(source, name, known)
    if isinstance(config, Adapter):
        _check_here(config, described)
        base = (dtype, device_map, attn_implementation, config.base_revision, trust_remote_code, keywords)
        return (*_with_adapter(config, revision, processor, (*base, False, strict)), name)
    check_kind(config, name)
    check_settings(dtype, attn_implementation, device_map)
    check_keywords(keywords, config, SETTINGS)
    if described:
        given = {} if dtype is None or dtype == "auto" else {"dtype": dtype}

        def make(kernel: Choice) -> Any:
            return _described(copy.deepcopy(config), source, {"attn_implementation": kernel, **given})

    else:
        options = {"dtype": "auto" if dtype is None else dtype, **keywords}
        if device_map is not None:
            options["device_map"] = device_map

        def make(kernel: Choice) -> Any:
            asked = {**known, **options, "attn_implementation": kernel, "output_loading_info": True}
            return whole_weights(lambda: loader(config).from_pretrained(source, **asked), name, strict)

    loaded = with_kernel(make, class_of(config), config, attn_implementation)
    found = as_processor(processor) if processor is not None else _processor_of(config, source, known)
    return loaded, found, name


def config_of(model: str, **options: Any) -> Any:
    """The config of a checkpoint, which is read before its weights are; of an adapter, that of the model it is for.

    Raises:
        UnknownName, InputError, UnsupportedModel: as :func:`load_module`.
    """
    source, name = _source(model)
    config = _config_or_adapter(source, name, options)
    if isinstance(config, Adapter):
        return config_of(config.base, revision=config.base_revision)
    check_kind(config, name)
    return config


def _config_or_adapter(source: str, name: str, known: dict[str, Any]) -> Any:
    """The config of a checkpoint, or the adapter that it holds in place of a model.

    Raises:
        UnknownName: there is none.
        InputError: it cannot be read.
    """
    folder = Path(source).is_dir()
    adapter = adapter_at(source) if folder else None
    if adapter is not None:
        return adapter
    try:
        return read_config(source, name, known, names())
    except UnknownName:
        adapter = None if folder else adapter_at(source, known.get("revision"))
        if adapter is None:
            raise
        return adapter


def _check_here(adapter: Adapter, described: bool) -> None:
    if described:
        raise InputError(
            f"{adapter.source} holds an adapter alone, and a service runs the model that it was made for without it: "
            f"la.load({adapter.base!r}, remote=True) describes that one."
        )


def _with_adapter(
    adapter: Adapter, revision: str | None, processor: Any, loading: tuple[Any, ...]
) -> tuple[nn.Module, Any]:
    """The model that an adapter was made for, with the adapter in it, and the processor of either."""
    try:
        base, found, _ = load_module(adapter.base, processor, *loading)
    except UnknownName as error:
        raise InputError(
            f"{adapter.source} holds an adapter for {adapter.base!r}, which is not here: {error} Load that model from "
            f"where it is and give PEFT's, la.load(PeftModel.from_pretrained(model, {adapter.source!r}))."
        ) from error
    if processor is None and any((Path(adapter.source) / file).is_file() for file in _OF_PROCESSORS):
        found = _processor_of(base.config, adapter.source, {})
    return with_adapter(base, adapter.source, revision), found


def _described(config: Any, source: str, options: dict[str, Any]) -> Any:
    """The modules of a checkpoint on the meta device."""
    kind = loader(config)
    with torch.device("meta"):
        make = kind.from_config if hasattr(kind, "from_config") else kind._from_config
        module = make(config, **options)
    module.name_or_path = source
    return module


def _check_loaded(model: Any, name: str, settings: dict[str, Any], attn_implementation: str) -> None:
    """What cannot be meant for a model that is loaded already: another kind of model, and settings of loading."""
    from transformers import PreTrainedConfig

    config = getattr(model, "config", None)
    if hasattr(config, "model_type"):
        check_kind(config, name)
    decoder: Any = config.get_text_config(decoder=True) if isinstance(config, PreTrainedConfig) else None
    if attn_implementation not in ("sdpa", *(getattr(c, "_attn_implementation", None) for c in (config, decoder))):
        settings = {**settings, "attn_implementation": attn_implementation}
    given = [setting for setting, value in settings.items() if value is not None]
    if given:
        raise InputError(
            f"{given[0]}={settings[given[0]]!r} is for loading a model, but {name!r} is loaded already. "
            "Load it that way yourself, or give its name or folder."
        )


def _source(name: str) -> tuple[str, str]:
    """Where to load from: the package's own folder for a bundled model, else the name itself."""
    if name in names():
        return str(path(name)), name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder), folder.name
    return name, name


def _processor_of(config: Any, source: str, known: dict[str, Any]) -> Any:
    """A checkpoint's processor, or its tokenizer as one."""
    return (load_text_processor if is_text_only(config) else load_processor)(source, **known)


def _processor_of_loaded(model: Any, name: str) -> Any:
    """The processor that lies beside a loaded model's weights, if any does."""
    return _processor_of(getattr(model, "config", None), name, {}) if Path(name).is_dir() else None

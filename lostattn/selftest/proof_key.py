"""What a proof depends on: a checkpoint, its code and config, the kernels, the libraries, the machine.

Where any of it is another, what was proved before says nothing.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import nn

from lostattn.points.hooked_model import HookedModel

LIBRARIES = (
    "torch", "transformers", "nnsight", "accelerate", "peft", "bitsandbytes", "torchao", "optimum", "optimum-quanto",
    "gptqmodel", "hqq", "compressed-tensors", "kernels", "flash-attn", "xformers", "triton", "safetensors", "numpy",
    "tokenizers", "pillow", "torchvision",
)  # fmt: skip
_NO_PART = ("_name_or_path", "transformers_version", "_commit_hash")  # of the config: where it comes from


def proof_key(model: HookedModel, source: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """All that a proof of a checkpoint depends on, as JSON-ready data; ``None`` where that cannot be told.

    Args:
        model: as it was loaded.
        source: the folder or hub name that it was loaded from.
        settings: what ``from_pretrained`` was given beside it.
    """
    plain = {name: value for name, value in settings.items() if name != "quantization_config"}  # the config holds that
    files = _files(model.hf, source)
    if files is None or not all(value is None or isinstance(value, str | int | float) for value in plain.values()):
        return None
    kind = type(model.hf)
    return {
        "model": f"{kind.__module__}.{kind.__qualname__}",
        "checkpoint": files,
        "settings": plain,
        "config": _digest(_of_config(model.hf.config)),
        "processor": _digest(_of_processor(model.processor)),
        "modules": _digest(_of_modules(model.hf)),
        "kernels": _kernels(model.hf),
        "dtype": str(model.hf.dtype),
        "devices": sorted({str(t.device) for t in (*model.hf.parameters(), *model.hf.buffers())}),
        "libraries": _libraries(),
        "machine": _machine(),
    }


def _files(module: Any, source: str) -> Any:
    """Which files of a folder, or which commit of a hub model; ``None`` where neither is known."""
    folder = Path(source)
    if folder.is_dir():
        told = [
            (path.relative_to(folder).as_posix(), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()
        ]
        return [str(folder.resolve()), _digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in told])]
    commit = getattr(module.config, "_commit_hash", None)
    return None if commit is None else [source, commit]


def _of_config(config: Any) -> Any:
    told = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in told.items() if name not in _NO_PART}


def _of_processor(processor: Any) -> Any:
    images = getattr(processor, "image_processor", None)
    parts = [type(part).__qualname__ for part in (processor, images, getattr(processor, "tokenizer", None))]
    return [*parts, str(images), getattr(processor, "chat_template", None)]


def _of_modules(root: nn.Module) -> Any:
    """Every module: its class, the code of what it does, its hooks, and what its weights look like."""
    told = []
    for path, module in root.named_modules():
        own = "forward" in module.__dict__
        hooks = [len(module._forward_hooks), len(module._forward_pre_hooks)]
        kind = type(module)
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        shapes = [(name, list(t.shape), str(t.dtype), type(t).__name__) for name, t in tensors]
        told.append([path, f"{kind.__module__}.{kind.__qualname__}", _code(module.forward), own, hooks, shapes])
    return told


def _kernels(root: nn.Module) -> dict[str, Any]:
    """The attention kernels in use and the code behind each name, which anybody may register anew."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    configs = (getattr(module, "config", None) for module in root.modules())
    names = sorted({str(getattr(config, "_attn_implementation", None)) for config in configs})
    return {name: _code(ALL_ATTENTION_FUNCTIONS.get(name)) for name in names}


def _code(function: Any) -> str:
    """A digest of what a function does, by its compiled code; of what has none, its name."""
    inner = getattr(function, "__func__", function)
    inner = getattr(inner, "__wrapped__", inner)
    code = getattr(inner, "__code__", None)
    name = f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"
    return name if code is None else f"{name} {_digest(_told(code))}"


def _told(code: CodeType) -> list[Any]:
    """Compiled code by what it does, functions inside it too; its bytes in memory differ by process."""
    inside: list[Any] = []
    for part in code.co_consts:
        told = sorted(map(repr, part)) if isinstance(part, frozenset) else repr(part)
        inside.append(_told(part) if isinstance(part, CodeType) else told)
    return [code.co_code.hex(), *code.co_names, inside]


@functools.cache
def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version(), "lostattn": _own_code()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _own_code() -> str:
    """This package by what it says, since a version may be worked on."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _machine() -> list[str]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [platform.node(), platform.machine(), torch.backends.cpu.get_cpu_capability(), *gpus, os.name]


def _digest(told: Any) -> str:
    return _short(json.dumps(told, sort_keys=True, default=str).encode())


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]

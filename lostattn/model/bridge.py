"""A TransformerBridge over the weights of an LVLM, so that TransformerLens' own tools work on it.

TransformerLens puts its components into the module tree that it is given, switches it to eager attention and may
run ``pip install torchvision`` when it boots a model that sees. So it is given a second module tree over the same
parameters, and is kept from installing anything while it boots.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lostattn.errors import UnsupportedModel, nearest
from lostattn.points.hooked_model import HookedModel
from lostattn.run.local import check_weights
from lostattn.weights.plain import why_not_as_stored

if TYPE_CHECKING:
    from torch import nn
    from transformer_lens.model_bridge import TransformerBridge

# What nnsight leaves on each module that it has wrapped: its state, and a forward of its own.
_NNSIGHT = "__nnsight__"
# A process that pip or uv starts while these are set finds nothing to install.
_OFFLINE = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}


def to_transformer_bridge(model: HookedModel) -> TransformerBridge:
    """A ``TransformerBridge`` that shares every parameter with ``model``.

    The model itself stays as it is: its modules, its kernel and its tokenizer are not the bridge's. Patterns in the
    bridge come from eager attention. What TransformerLens does to weights in place
    (``enable_compatibility_mode`` with its processing) it would do to the model's: load a model of its own for that.

    Raises:
        InputError: the model is described without its weights.
        UnsupportedModel: a layer multiplies by something else than the weight that it stores (quantised, adapted,
            offloaded, parametrised, or somebody's own); TransformerLens has no adapter for this architecture.
    """
    check_weights(model)
    _check_stored(model)
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(model.hf).__name__
    ArchitectureAdapterFactory.discover_entry_points()
    adapters = ArchitectureAdapterFactory._adapters
    if architecture not in adapters:
        raise UnsupportedModel(
            f"TransformerLens has no adapter for {architecture}, so no TransformerBridge can be made of it."
            f"{nearest(architecture, adapters)}"
        )
    module = twin(model.hf)
    module.set_attn_implementation("eager")
    with nothing_installed(adapters[architecture]):
        bridge = build_bridge_from_module(
            module,
            architecture,
            hf_config=module.config,
            tokenizer=_own_tokenizer(model.processor),
            model_name=model.name,
        )
    bridge.processor = model.processor
    return bridge


def _check_stored(model: HookedModel) -> None:
    """Refuse a model whose stored weights are not what it computes with: a bridge reads and copies those."""
    maps = [model.architecture.unembed]
    for block in model.architecture.stack.blocks:
        for attn in block.attentions.values():
            maps += [path for path in (attn.q, attn.k, attn.v, attn.qkv, attn.o) if path is not None]
        maps += [path for _, path in block.mlp_order]
        maps += [block.mlp_out] if block.mlp_post is not None and block.mlp_out is not None else []
    reason = why_not_as_stored(model.hf, maps)
    if reason:
        raise UnsupportedModel(
            f"a TransformerBridge takes the weights of {model.name!r} as they are stored, and they are not what it "
            f"computes with: {reason}. Caches, edits and attributions of lostattn take the layers as they are."
        )


def twin(module: nn.Module) -> Any:
    """A second module tree over the same parameters, without what nnsight has put on the first one.

    Buffers and configs are copied, and so is everything else that a module holds.
    """
    shared: dict[int, Any] = {id(parameter): parameter for parameter in module.parameters()}
    for inner in module.modules():
        if _NNSIGHT in inner.__dict__:
            for name in (_NNSIGHT, "forward"):
                if name in inner.__dict__:
                    shared[id(inner.__dict__[name])] = inner.__dict__[name]
    other = copy.deepcopy(module, shared)
    for inner in other.modules():
        if inner.__dict__.pop(_NNSIGHT, None) is not None:
            inner.__dict__.pop("forward", None)
    return other


@contextmanager
def nothing_installed(adapter: Any) -> Iterator[None]:
    """While this is open, TransformerLens installs no package, and its adapter does without torchvision.

    The Qwen adapters ask for torchvision because a processor may need it; no float of the model does.
    """
    from transformer_lens.model_bridge.sources.transformers import helpers

    with ExitStack() as undo:
        for name, value in _OFFLINE.items():
            undo.callback(_restore, name, os.environ.get(name))
            os.environ[name] = value
        undo.enter_context(_swapped(helpers, "_ensure_torchvision", lambda: False))
        for kind in adapter.__mro__:
            if "torchvision" in kind.__dict__.get("required_libraries", ()):
                others = [name for name in kind.required_libraries if name != "torchvision"]
                undo.enter_context(_swapped(kind, "required_libraries", others))
        yield


@contextmanager
def _swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _own_tokenizer(processor: Any) -> Any:
    """A copy of the tokenizer for the bridge to set up: it loads it anew from where it lies, and changes it."""
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    tokenizer = getattr(processor, "tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None
    from transformer_lens.model_bridge.sources._bridge_builder import setup_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        own = setup_tokenizer(AutoTokenizer.from_pretrained(folder))
    # The bridge sets it up once more; with its BOS already added it does not go back to the folder.
    own.init_kwargs |= {"name_or_path": tokenizer.name_or_path, "add_bos_token": True}
    return own

"""HookedModel: a Hugging Face model with its hook points, prompts and inputs; what every pass is run on."""

from __future__ import annotations

import inspect
import threading
from typing import Any, NoReturn

from torch import Tensor

from lostattn.architecture.config import Config, config_of
from lostattn.architecture.resolve import resolve
from lostattn.arguments import checked_call
from lostattn.checkpoint.no_processor import NoProcessor
from lostattn.errors import InputError, UnsupportedModel
from lostattn.points.module_record import ModuleRecord
from lostattn.points.sites import Sites, served_path
from lostattn.points.traced_model import traced_model
from lostattn.prompt.batch import Prompt
from lostattn.prompt.build import build_prompt
from lostattn.prompt.identity import check_maker
from lostattn.weights.offload import device_of, is_described_only


@checked_call
class HookedModel:
    """A Hugging Face model whose hook points are known; the calls on it are those of :class:`lostattn.LVLM`.

    ``cfg`` holds the sizes under TransformerLens' names, ``hf`` the Hugging Face model, ``nn`` the nnsight model around
    it, ``processor`` the processor, ``sites`` where every hook point is, ``hook_names`` their names.
    """

    def __init__(self, module: Any, processor: Any, name: str) -> None:
        self.hf = module
        self.processor = processor
        self.architecture = resolve(module)
        self.sites = Sites(self.architecture)
        self.nn = traced_model(module, processor)
        self.operations = _operations(self)
        self.name = name
        self.lock = threading.RLock()  # one pass at a time: nnsight's traces of one model cannot interleave
        self.record = ModuleRecord(module)

    @property
    def cfg(self) -> Config:
        """The model's sizes, dtype, device and kernel as they are now."""
        return config_of(self.hf, self.architecture, self.name)

    @property
    def is_described_only(self) -> bool:
        """Whether the model was loaded with ``remote=True``: its structure without its weights."""
        return is_described_only(self.hf)

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Every hook point of this model, in forward order."""
        return self.sites.names

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise InputError(
            f"{self.name!r} cannot be copied: its hook points are bound to its modules. Load it once more, la.load(…), "
            "or copy the Hugging Face model before it is wrapped: la.load(copy.deepcopy(module))."
        )

    def __reduce__(self) -> NoReturn:
        raise InputError(
            f"{self.name!r} cannot be pickled: load it where it is needed, la.load(…). What it gave can be saved: "
            "cache.save(path)."
        )

    def __repr__(self) -> str:
        c = self.cfg
        return (
            f"LVLM {self.name!r}: {type(self.hf).__name__}, {c.n_layers} layers of {c.n_heads} heads "
            f"({c.n_key_value_heads} key/value), d_model {c.d_model}, {c.n_vision_layers} vision layers; "
            f"{c.attn_implementation}, {str(c.dtype).removeprefix('torch.')} on {c.device}; "
            f"{len(self.hook_names)} hook points"
        )

    def prompt(self, question: Any = None, images: Any = None, **keywords: Any) -> Prompt:
        """A prompt of this model: from a question, a text with ``images=[…]``, lists of them, or ``inputs=``.

        See :func:`lostattn.prompt.build_prompt` for everything that it takes and refuses.
        """
        if self.processor is None and keywords.get("inputs") is None:
            raise InputError(
                "this model was loaded without a processor, so a prompt can only be made of inputs that are ready: "
                "model.prompt(inputs=…). Or load it with processor=."
            )
        processor = self.processor or NoProcessor()
        return build_prompt(processor, self.hf.config, question, images, module=self.hf, **keywords)

    def _prompted(self, prompt: Any) -> Prompt:
        if not isinstance(prompt, Prompt):
            return self.prompt(prompt)
        check_maker(prompt, self.processor, self.hf.config, self.name)
        return prompt

    def _inputs(self, prompt: Prompt) -> dict[str, Any]:
        device = device_of(self.hf)
        dtype = self.hf.dtype
        moved = {}
        for name, value in prompt.inputs.items():
            if isinstance(value, Tensor):
                value = value.to(device, dtype if value.is_floating_point() else None)
            moved[name] = value
        return moved | self._positions(moved)

    def _positions(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Position ids that count real tokens, for a padded batch; as the Hugging Face ``generate`` makes them.

        A plain forward counts padding too. Families with positions in several dimensions (mRoPE) look at the mask
        themselves.
        """
        mask = inputs.get("attention_mask")
        known = inspect.signature(self.hf.forward).parameters
        if mask is None or bool(mask.all()) or "position_ids" in inputs or "position_ids" not in known:
            return {}
        if any(hasattr(module, "get_rope_index") for module in (self.hf, self.hf.base_model)):
            return {}
        return {"position_ids": (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)}


def _operations(model: HookedModel) -> dict[str, str]:
    """nnsight's name of the attention call of every attention module, read from its instrumented source."""
    architecture = model.architecture
    stacks = [architecture.stack, *([architecture.vision.stack] if architecture.vision else [])]
    found = {}
    for stack in stacks:
        for path in (attn.path for block in stack.blocks for attn in block.attentions.values()):
            names = [n for n in model.nn.get(served_path(path)).source.names if n.startswith("attention_interface_")]
            if not names:
                raise UnsupportedModel(f"{path}: nnsight sees no call of attention_interface in its forward.")
            found[path] = names[-1]
    return found

"""Loading a model: found, wrapped, and proved before it is handed out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from lostattn.arguments import checked_call
from lostattn.arguments.kinds import Told
from lostattn.errors import InputError
from lostattn.model.load_module import load_module
from lostattn.model.lvlm import LVLM
from lostattn.selftest.proof_key import proof_key
from lostattn.selftest.proof_record import note_proof, recall_proof
from lostattn.weights.cpu_packing import keep_as_quantised

Named = Annotated[
    str | Path | nn.Module,
    Told("the name of a bundled model such as 'tiny-llava', a Hugging Face id, a folder, or a loaded model"),
]


@checked_call
def load(
    model: Named,
    *,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    attn_implementation: str = "sdpa",
    processor: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    selftest: str | bool = "once",
    remote: bool = False,
    strict: bool = True,
    **keywords: Any,
) -> LVLM:
    """Load a vision-language model, or a decoder of text alone.

    A decoder of text (Llama, Qwen2, …) works as every model here does, on prompts without pictures: there are no image
    positions and no vision points.

    Args:
        model: ``"tiny-llava"`` or ``"tiny-qwen2_5-vl"`` (bundled, trained on ``shapes``), a Hugging Face id, a folder,
            or a model that is loaded already; quantised, with PEFT's adapters (a ``PeftModel``, too) or offloaded.
            Where a folder or id holds an adapter alone, the model that it names is loaded with it (PEFT must be there).
        dtype: of the weights; default as they are stored.
        device_map: where to put them, as transformers takes it (``"auto"``, ``"cuda"``, …).
        attn_implementation: the kernel; every hook point works under all that transformers has. Where a part beside
            the decoder does not support it, that part runs eager attention, with a warning.
        processor: a processor to use instead of the checkpoint's own (a tokenizer for a decoder of text). With a loaded
            model and none given, it is looked up under the model's ``name_or_path``; where there is none, prompts are
            made of ready inputs only.
        revision: of a Hugging Face id.
        trust_remote_code: off unless asked for.
        selftest: prove the hook points on a small picture before handing the model out (skipped without a processor).
            ``"once"`` (or ``True``): unless this very checkpoint was proved on this machine before, with the same code,
            config, dtype, kernels, devices and libraries; a model that is loaded already is always proved.
            ``"always"``: whatever is known. ``False``: not at all.
        remote: describe the model without its weights, for calls with ``remote=True``: names, shapes, token maps and
            plans are made here, passes run there. The self-test is run on request: ``model.selftest(remote=True)``.
        strict: refuse a checkpoint that lacks weights of its model, which transformers would make up at random, or
            holds others. ``False`` loads it as transformers does.
        keywords: passed on to ``from_pretrained``.

    Raises:
        UnknownName: no bundled model, folder or hub model is called that.
        UnknownArgument: a keyword that nothing takes, with the nearest.
        UnsupportedModel: the model's parts cannot be found, or one of them fails the self-test.
        InputError: a setting cannot be meant; a kernel that transformers does not run this decoder with; a config or
            weights that cannot be read, or that are not those of the model.
    """
    if not isinstance(selftest, bool) and selftest not in ("always", "once"):
        raise InputError(f"selftest is {selftest!r}; expected 'always', 'once' (or True), or False.")
    module, found, name = load_module(
        model, processor, dtype, device_map, attn_implementation, revision, trust_remote_code, keywords, remote, strict
    )
    keep_as_quantised(module)
    wrapped = LVLM(module.eval(), found, name)
    wrapped.nn.revision = revision
    if selftest and found is not None and not wrapped.is_described_only:
        settings = {"attn_implementation": attn_implementation, "dtype": dtype, "device_map": device_map, **keywords}
        key = None if isinstance(model, nn.Module) or processor is not None else _key(wrapped, settings)
        if key is None or selftest == "always" or not recall_proof(wrapped, key):
            wrapped.selftest()
            if key is not None:
                note_proof(wrapped, key)
    return wrapped


def _key(model: LVLM, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What a proof of this checkpoint depends on; dtypes and maps of devices as they are written."""
    told = {name: str(value) if name in ("dtype", "device_map") else value for name, value in settings.items()}
    return proof_key(model, str(getattr(model.hf, "name_or_path", "")), told)

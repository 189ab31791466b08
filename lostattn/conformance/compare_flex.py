"""The same under flex attention, where a family has it: its masks are rules and no tensors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from lostattn.conformance.compare_edits import identity, uniform
from lostattn.conformance.compare_patterns import patterns
from lostattn.conformance.comparison import Absent, Comparison, Subject
from lostattn.model.load import load


def flex(subject: Subject, make: Callable[[], Any]) -> list[Comparison]:
    """Patterns and edits of the family built with flex attention.

    Args:
        subject: for its prompt.
        make: builds the family with flex attention, of the same weights.
    """
    try:
        module = make()
    except Exception as error:  # whatever transformers says
        raise Absent(_said(error)) from error
    kernel = module.config.get_text_config(decoder=True)._attn_implementation
    if kernel != "flex_attention":
        raise Absent(f"transformers gives the decoder {kernel} attention instead")
    bare = copy.deepcopy(module)
    with uncompiled_flex():
        try:
            with torch.no_grad():
                bare(**subject.model._inputs(subject.prompt), use_cache=False)
        except Exception as error:  # whatever torch says
            raise Absent(_said(error)) from error
        model = load(module, selftest=False)
        model.sites = subject.model.sites
        under = replace(subject, model=model, bare=bare)
        return [*patterns(under), *identity(under), *uniform(under)]


@contextmanager
def uncompiled_flex() -> Iterator[None]:
    """Flex attention as torch defines it: compiling its kernel takes half a minute a family on a processor."""
    from torch.nn.attention import flex_attention as torchs
    from transformers import masking_utils
    from transformers.integrations import flex_attention as theirs

    def blocks(*arguments: Any, **keywords: Any) -> Any:
        return torchs.create_block_mask(*arguments, **{**keywords, "_compile": False})

    instead: list[tuple[Any, str, Any]] = [
        (torchs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True),
        (theirs.WrappedFlexAttention, "__call__", lambda self: torchs.flex_attention),
        (theirs, "create_block_mask", blocks),
        (masking_utils, "create_block_mask", blocks),
    ]
    before = [getattr(holder, name) for holder, name, _ in instead]
    try:
        for holder, name, value in instead:
            setattr(holder, name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            yield
    finally:
        for (holder, name, _), value in zip(instead, before, strict=True):
            setattr(holder, name, value)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"

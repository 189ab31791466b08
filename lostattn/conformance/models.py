"""Tiny random models of every family of transformers' image-text-to-text mapping, from their own config classes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from lostattn.checkpoint.attention_choice import Choice, with_kernel
from lostattn.checkpoint.extra_packages import missing_packages
from lostattn.conformance.exceptions import CONFIG_CHANGES, GIVEN
from lostattn.conformance.shrink import shrunk
from lostattn.errors import UnknownName, nearest


def families() -> dict[str, str]:
    """Every family of the installed transformers: its name and the class that it is loaded as."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    return {name: kind if isinstance(kind, str) else kind[0] for name, kind in NAMES.items()}


def _known(family: str) -> str:
    if family not in families():
        raise UnknownName(f"no family is called {family!r}.{nearest(family, list(families()))}")
    return family


def small_config(family: str) -> Any:
    """The family's config at a size for tests."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[_known(family)]
    data = shrunk(kind(**GIVEN.get(family, {})).to_dict())
    for path, value in CONFIG_CHANGES.get(family, {}).items():
        *outer, last = path.split(".")
        holder = data
        for name in outer:
            holder = holder[name]
        holder[last] = value
    return kind.from_dict(data)


def build(family: str, attn_implementation: str = "eager", seed: int = 0) -> nn.Module:
    """A model of two layers or so (one of each kind) with weights of order one, the same for a seed.

    A default initialisation makes attention near-uniform and so hides mistakes.

    Raises:
        UnknownName: no such family.
        ImportError: a package that the family needs is missing; see :mod:`lostattn.checkpoint.extra_packages`.
        ValueError: what transformers raises where it cannot make one (a kernel that it refuses).
    """
    import transformers

    kind: Any = getattr(transformers, families()[_known(family)])
    config = small_config(family)

    def make(kernel: Choice) -> nn.Module:
        torch.manual_seed(seed)
        made: nn.Module = kind._from_config(copy.deepcopy(config), attn_implementation=kernel)
        return made

    try:
        model = with_kernel(make, kind, config, attn_implementation).eval()
    except ImportError as error:
        lacking = missing_packages()
        if not lacking:
            raise
        raise ImportError(
            f"{family} is built with a package that is not here ({', '.join(lacking)} are not). `make conformance` "
            "installs them into a folder of their own."
        ) from error
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fill(parameter, generator)
    return model


def fill(parameter: nn.Parameter, generator: torch.Generator) -> None:
    """Weights that keep a signal's size; vectors (norms, biases, gates) around one half and one."""
    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
    if parameter.dim() > 1:
        parameter.copy_(noise * parameter[0].numel() ** -0.5 * 1.3)
    else:
        parameter.copy_(0.8 + 0.2 * noise)

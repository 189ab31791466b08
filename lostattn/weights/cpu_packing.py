"""4-bit weights on a CPU, kept as they were quantised."""

from __future__ import annotations

from typing import Any

from torch import nn


def keep_as_quantised(model: nn.Module) -> None:
    """Have a model's 4-bit layers run from their codes and scales on every CPU alike.

    On processors with bfloat16 instructions the first call of bitsandbytes' layer lays its weight out anew, rounds its
    scales to bfloat16, and fails where a block of codes does not fit into a row. Then a model would compute something
    else after its first pass, and on another machine. Layers that have been laid out so already stay as they are.
    """
    for module in model.modules():
        layer: Any = module
        if type(module).__name__ in ("Linear4bit", "LinearFP4", "LinearNF4"):
            layer.support_avx512bf16_for_cpu = False

"""The tiny models as people bring them: quantised by four libraries, adapted by PEFT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import torch
import torchao.quantization as ao
import transformers
from torch import nn
from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

from lostattn import zoo
from lostattn.weights.cpu_packing import keep_as_quantised

QUANTISED: dict[str, Callable[[], Any]] = {
    "8 bit": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "4 bit": lambda: BitsAndBytesConfig(load_in_4bit=True),
    "nf4, twice": lambda: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    ),
    "torchao int8": lambda: TorchAoConfig(ao.Int8WeightOnlyConfig()),
    "torchao int8, inputs too": lambda: TorchAoConfig(ao.Int8DynamicActivationInt8WeightConfig()),
    "torchao intx": lambda: TorchAoConfig(ao.IntxWeightOnlyConfig()),
    "torchao float8": lambda: TorchAoConfig(ao.Float8WeightOnlyConfig()),
    "quanto int8": lambda: QuantoConfig(weights="int8"),
    "quanto int4": lambda: QuantoConfig(weights="int4"),
    "quanto int2": lambda: QuantoConfig(weights="int2"),
    "quanto float8": lambda: QuantoConfig(weights="float8"),
}
ROUNDS = ("8 bit", "torchao int8, inputs too")  # what they are given, too


def plain(name: str, **options: Any) -> Any:
    """A bundled model as transformers loads it."""
    return transformers.AutoModelForImageTextToText.from_pretrained(str(zoo.path(name)), **options)


def quantised(name: str, how: str, **options: Any) -> Any:
    """A bundled model, quantised as it is loaded."""
    found = plain(name, quantization_config=QUANTISED[how](), **options)
    keep_as_quantised(found)
    return found


def dequantised(layer: Any) -> torch.Tensor:
    """A layer's weight by the library's own function."""
    kind = type(layer.weight).__name__
    if kind in ("Int8Params", "Params4bit"):
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        return dequantize_bnb_weight(layer.weight, getattr(layer, "state", None)).detach().float()
    return layer.weight.dequantize().detach().float()


def written_out(model: Any) -> Any:
    """A quantised model with every code spelled out by its library, in plain layers."""
    if type(model.config.quantization_config).__name__ == "BitsAndBytesConfig":
        return model.dequantize()
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and type(layer.weight.data) is not torch.Tensor:
            plainly = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plainly.weight = nn.Parameter(dequantised(layer))
            if layer.bias is not None:
                plainly.bias = nn.Parameter(layer.bias.detach())
            model.set_submodule(path, plainly)
    return model


def written(model: nn.Module) -> None:
    """Write something into every weight of an adapter, so that it does something."""
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(model.named_parameters(), key=lambda pair: pair[0]):
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)


def adapted(model: Any, config: Any, name: str = "default") -> Any:
    """A model in PEFT's, with an adapter that does something; the same one each time."""
    torch.manual_seed(0)
    found = peft.get_peft_model(model, config, adapter_name=name)
    written(found)
    return found

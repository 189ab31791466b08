"""A layer's FFN, read from its source: the module, and its linear maps."""

from __future__ import annotations

from typing import Any

from torch import nn

from lostattn.architecture.attention import attention_in
from lostattn.architecture.dataflow import ATTENTION_CALL, Call, Value, flow
from lostattn.architecture.stream_sums import is_norm


def ffn_of(path: str, layer: nn.Module, calls: tuple[Call, ...]) -> dict[str, Any]:
    """The FFN among the calls after the layer's attention, and its linear maps where it has two or three of them."""
    out: dict[str, Any] = {"mlp": None, "mlp_order": (), "mlp_post": None, "mlp_out": None}
    names = _candidates(layer, calls)
    if not names:
        return out
    first = layer.get_submodule(names[0])
    holder, linears, last = layer, [n for n in names if isinstance(layer.get_submodule(n), nn.Linear)], None
    behind = _map_behind(layer, calls, names)
    if behind and not isinstance(first, nn.Linear):
        linears = [*behind]
    elif not isinstance(first, nn.Linear):  # otherwise the maps of the FFN are the layer's own
        ffn = flow(first)
        holder, path = first, f"{path}.{names[0]}"
        linears = [call.child for call in ffn.calls if isinstance(first.get_submodule(call.child), nn.Linear)]
        last = ffn.result.child if ffn.result.kind == "child" and ffn.result.factor == 1.0 else ""
        out["mlp"] = out["mlp_out"] = path
        if _has_experts(first):
            return out
    if len(linears) not in (2, 3) or (last is not None and last != linears[-1]) or len(set(linears)) != len(linears):
        return out
    return {**out, **_maps(path, holder, linears)}


def _candidates(layer: nn.Module, calls: tuple[Call, ...]) -> list[str]:
    """The children that are called and are neither a norm nor attention."""
    modules = [(call.child, layer.get_submodule(call.child)) for call in calls if call.child != ATTENTION_CALL]
    return [name for name, module in modules if not is_norm(module) and attention_in(module) is None]


def _has_experts(ffn: nn.Module) -> bool:
    """Whether an FFN is made of modules that hold modules, rather than of linear maps."""
    return any(not isinstance(child, nn.Linear) and list(child.children()) for child in ffn.children())


def _maps(path: str, holder: nn.Module, linears: list[str]) -> dict[str, Any]:
    """The last of an FFN's linear maps as its output, and those before it where they give what it is given."""
    *before, last = linears
    width = holder.get_submodule(last).in_features
    if any(holder.get_submodule(name).out_features != width for name in before):
        return {"mlp_post": f"{path}.{last}", "mlp_out": f"{path}.{last}"}
    order = tuple(zip(("pre", "pre_linear"), (f"{path}.{name}" for name in before), strict=False))
    return {"mlp_post": f"{path}.{last}", "mlp_out": f"{path}.{last}", "mlp_order": order}


def _map_behind(layer: nn.Module, calls: tuple[Call, ...], names: list[str]) -> tuple[str, ...]:
    """The two maps of an FFN that lie in two modules of the layer, one behind the other (BERT)."""
    if len(names) != 2 or not isinstance(layer.get_submodule(names[1]), nn.Linear):
        return ()
    given = next(call.given for call in calls if call.child == names[1])
    inside = [n for n, m in layer.get_submodule(names[0]).named_modules() if isinstance(m, nn.Linear)]
    return (
        (f"{names[0]}.{inside[0]}", names[1]) if len(inside) == 1 and given[:1] == (Value("child", names[0]),) else ()
    )

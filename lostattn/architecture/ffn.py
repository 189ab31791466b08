"""A layer's FFN, read from its source: the module, and its linear maps."""

from __future__ import annotations

from typing import Any

from torch import nn

from lostattn.architecture.attention import attention_in
from lostattn.architecture.dataflow import ATTENTION_CALL, INPUT, Call, Value, flow
from lostattn.weights.kinds import acting, acting_modules, is_linear_layer, is_norm, may_be_linear, widths


def ffn_of(path: str, layer: nn.Module, calls: tuple[Call, ...]) -> dict[str, Any]:
    """The FFN among the calls after the layer's attention, and its linear maps where it has two or three of them."""
    out: dict[str, Any] = {"mlp": None, "mlp_order": (), "mlp_post": None, "mlp_out": None}
    names = _candidates(layer, calls)
    if not names:
        return out
    first = layer.get_submodule(names[0])
    holder, linears, last = layer, [n for n in names if is_linear_layer(layer.get_submodule(n))], None
    behind = _map_behind(layer, calls, names)
    if behind and not is_linear_layer(first):
        linears = [*behind]
    elif not is_linear_layer(first):  # otherwise the maps of the FFN are the layer's own
        ffn = flow(first)
        holder, path = first, f"{path}.{names[0]}"
        last = ffn.result.child if ffn.result.kind == "child" and ffn.result.factor == 1.0 else ""
        linears = [call.child for call in ffn.calls if _is_map(first, call, last)]
        out["mlp"] = out["mlp_out"] = path
        if _has_experts(first, [first.get_submodule(name) for name in linears]):
            return out
    if len(linears) not in (2, 3) or (last is not None and last != linears[-1]) or len(set(linears)) != len(linears):
        return out
    return {**out, **_maps(path, holder, linears)}


def _candidates(layer: nn.Module, calls: tuple[Call, ...]) -> list[str]:
    """The children that are called and are neither a norm nor attention."""
    modules = [(call.child, layer.get_submodule(call.child)) for call in calls if call.child != ATTENTION_CALL]
    return [name for name, module in modules if not is_norm(module) and attention_in(module) is None]


def _has_experts(ffn: nn.Module, maps: list[nn.Module]) -> bool:
    """Whether an FFN is made of modules that hold modules, rather than of linear maps."""
    return any(child not in maps and list(child.children()) for child in acting(ffn).children())


def _maps(path: str, holder: nn.Module, linears: list[str]) -> dict[str, Any]:
    """The last of an FFN's linear maps as its output, and those before it where they give what it is given."""
    *before, last = linears
    sizes = [widths(holder.get_submodule(name)) or (0, 0) for name in linears]
    if any(made != sizes[-1][0] for _, made in sizes[:-1]):
        return {"mlp_post": f"{path}.{last}", "mlp_out": f"{path}.{last}"}
    order = tuple(zip(("pre", "pre_linear"), (f"{path}.{name}" for name in before), strict=False))
    return {"mlp_post": f"{path}.{last}", "mlp_out": f"{path}.{last}", "mlp_order": order}


def _is_map(ffn: nn.Module, call: Call, last: str) -> bool:
    """Whether a call is one of the FFN's linear maps: a layer that is one, or one's own at the beginning or the end."""
    module = ffn.get_submodule(call.child)
    if is_linear_layer(module):
        return True
    outer = call.child == last or call.given[:1] == (INPUT,)
    alone = sum(value.known for value in call.given) == 1 and attention_in(module) is None
    return outer and alone and may_be_linear(module) and widths(module) is not None


def _map_behind(layer: nn.Module, calls: tuple[Call, ...], names: list[str]) -> tuple[str, ...]:
    """The two maps of an FFN that lie in two modules of the layer, one behind the other (BERT)."""
    if len(names) != 2 or not is_linear_layer(layer.get_submodule(names[1])):
        return ()
    given = next(call.given for call in calls if call.child == names[1])
    inside = [n for n, m in acting_modules(layer.get_submodule(names[0])) if n and is_linear_layer(m)]
    inside = [n for n in inside if not any(n.startswith(f"{outer}.") for outer in inside)]
    return (
        (f"{names[0]}.{inside[0]}", names[1]) if len(inside) == 1 and given[:1] == (Value("child", names[0]),) else ()
    )

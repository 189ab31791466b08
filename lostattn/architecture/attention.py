"""One attention module, read from its source: its projections, its operation, and its output map."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from torch import nn

from lostattn.architecture.call_order import attention_in_comprehension, calls_attention, forward_calls
from lostattn.architecture.dataflow import ATTENTION_CALL, OTHER, Call, Flow, Value, flow
from lostattn.architecture.source import source_of
from lostattn.architecture.structure import Attention
from lostattn.weights.kinds import acting, acting_modules, is_linear_layer, may_be_linear, widths

FUSED_QKV = ("qkv", "qkv_proj", "c_attn", "Wqkv")  # rows of all queries, then all keys, then all values
SEPARATE = {
    **dict.fromkeys(("q_proj", "query", "q", "wq", "q_lin", "linear_q"), "q"),
    **dict.fromkeys(("k_proj", "key", "k", "wk", "k_lin", "linear_k"), "k"),
    **dict.fromkeys(("v_proj", "value", "v", "wv", "v_lin", "linear_v"), "v"),
}


def attention_in(module: nn.Module) -> str | None:
    """The path, below a module, of the first one that calls the attention interface (``""``: the module itself)."""
    return next((path for path, inner in acting_modules(module) if calls_attention(inner)), None)


def held_attention(path: str, layer: nn.Module, read: Flow, at: int, n_heads: int, n_kv: int) -> Attention:
    """The attention that is held by what a layer calls at ``at``."""
    child = read.calls[at].child
    below = attention_in(layer.get_submodule(child))
    inner = f"{child}.{below}" if below else child
    outer = map_behind(layer, read, at)
    return attention_of(f"{path}.{inner}", layer.get_submodule(inner), n_heads, n_kv, outer and f"{path}.{outer}")


def map_behind(layer: nn.Module, read: Flow, at: int) -> str | None:
    """The linear map that is given what the attention at ``at`` gives as it is, where that holds no map of its own."""
    child = read.calls[at].child
    if not calls_attention(acting(layer.get_submodule(child))) or at + 1 >= len(read.calls):
        return None
    after = read.calls[at + 1]
    linear = is_linear_layer(layer.get_submodule(after.child))
    return after.child if linear and after.given == (Value("child", child),) else None


def attention_of(path: str, module: Any, n_heads: int, n_kv: int, outer: str | None = None) -> Attention:
    """The attention module's own parts; a projection that is not found, or not of the expected width, is ``None``.

    Args:
        path: of the module.
        module: it.
        n_heads: of queries, where the module does not say.
        n_kv: of keys and values, where the module does not say.
        outer: an output map that stands behind the module and not in it (BERT).
    """
    read = flow(module)
    names = [call.child for call in read.calls]
    where = max((i for i, name in enumerate(names) if name == ATTENTION_CALL), default=len(names))
    output = _output_map(module, read, where)
    given = (output and widths(module.get_submodule(output.child))) or (0, 0)
    n_heads, n_kv = _counts(module, given[0], n_heads, n_kv)
    before = [name for name in dict.fromkeys(names[:where]) if name != ATTENTION_CALL]
    found = _projections(module, before, n_heads, n_kv)
    mixed = output.given[0] if output else read.result if outer else OTHER
    calls = [name for name, _ in forward_calls(module) if name == ATTENTION_CALL]
    values = Value("child", found["v"]) if "v" in found else None
    at = {letter: f"{path}.{name}" for letter, name in found.items()}
    return Attention(
        path=path,
        # nnsight numbers the binding `attention_interface = …` as 0 and the calls from 1; the last call is
        # the one that ordinary kernels take (flash attention has a branch of its own before it).
        operation=f"{ATTENTION_CALL}_{len(calls)}",
        windows=attention_in_comprehension(module),
        q=at.get("q"),
        k=at.get("k"),
        v=at.get("v"),
        qkv=at.get("qkv"),
        order=tuple(f"{path}.{name}" for name in before if name in found.values()),
        o=f"{path}.{output.child}" if output else outer,
        n_heads=n_heads,
        n_key_value_heads=n_kv,
        d_head=_head_size(module, given[0], n_heads),
        gives_o=outer is not None if output is None else read.result == Value("child", output.child),
        z_is_kernels=mixed == Value("child", ATTENTION_CALL),
        keeps_keys=_keeps_keys(module),
        v_is_values=values is not None and where < len(names) and values in read.calls[where].given,
    )


_HEADS = ("num_heads", "num_attention_heads", "n_heads")
_HEAD_SIZES = ("v_head_dim", "head_dim", "attention_head_size", "key_value_proj_dim")


def _counts(module: Any, width: int, n_heads: int, n_kv: int) -> tuple[int, int]:
    """Heads of queries, and of keys and values: as the module says, or its maps' widths do, or the model.

    Layers of one stack may differ, so what is said of all of them counts only where the layer itself says nothing.
    """
    said = _first_own(module, _HEADS)
    head = _first_own(module, _HEAD_SIZES)
    by_width = width // head if head and width and width % head == 0 else None
    n_heads = said or by_width or n_heads
    groups = _own(module, "num_key_value_groups")
    return n_heads, _own(module, "num_key_value_heads") or (n_heads // groups if groups else min(n_kv, n_heads))


def _head_size(module: Any, width: int, n_heads: int) -> int:
    """The size of what a head gives: its share of the output map's input, or what the module says; else 0."""
    return width // n_heads if width and width % n_heads == 0 else _first_own(module, _HEAD_SIZES) or 0


def _first_own(module: Any, names: tuple[str, ...]) -> int | None:
    return next((value for name in names if (value := _own(module, name))), None)


def _projections(module: Any, before: list[str], n_heads: int, n_kv: int) -> dict[str, str]:
    """The children that make q, k and v, or all three (``"qkv"``), among those that run before the attention call."""
    head = _own(module, "head_dim") or _own(module, "attention_head_size")
    found: dict[str, str] = {}
    for name in before:
        letter = SEPARATE.get(name.rpartition(".")[2])
        size = widths(module.get_submodule(name)) if letter else None
        heads = n_heads if letter == "q" else n_kv
        if letter and size and size[1] % heads == 0 and (head is None or size[1] == heads * head):
            found[letter] = name
    fused = next((n for n in before if n in FUSED_QKV and _thirds(module.get_submodule(n), n_heads)), None)
    return {**found, "qkv": fused} if fused else found


def _output_map(module: nn.Module, read: Flow, where: int) -> Call | None:
    """The linear map that is given what the attention call gave; else a layer of somebody's own in the place of one.

    Whether that is linear is seen when its weights are asked for.
    """
    after = [c for c in read.calls[where + 1 :] if c.given and c.given[0].known and c.given[0].kind != "input"]
    sure = [c for c in after if is_linear_layer(module.get_submodule(c.child))]
    last = [c for c in after if read.result == Value("child", c.child) and may_be_linear(module.get_submodule(c.child))]
    return next(iter((*sure, *last)), None)


def _own(module: Any, name: str) -> int | None:
    value = getattr(module, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _thirds(module: nn.Module, n_heads: int) -> bool:
    """Whether a projection gives equally many queries, keys and values."""
    size = widths(module)
    return size is not None and size[1] == 3 * size[0] and size[1] % (3 * n_heads) == 0


def _keeps_keys(module: nn.Module) -> bool:
    """Whether an attention module takes keys and values from a cache in place of making them, where it finds them."""
    source = source_of(type(module).forward)
    for node in ast.walk(source) if source is not None else ():
        if isinstance(node, ast.If):
            branches = [list(_named(node.body)), list(_named(node.orelse))]
            for reads, makes in (branches, branches[::-1]):
                if any("past_key_value" in name for name in reads) and any(name.startswith("self.k") for name in makes):
                    return True
    return False


def _named(body: list[ast.stmt]) -> Iterator[str]:
    """What the values of assignments and the calls in some statements are, as source."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func)
            elif isinstance(node, ast.Assign):
                yield ast.unparse(node.value)

"""One layer of a stack, read from its source: norms, attention, FFN, and what adds to the stream."""

from __future__ import annotations

from typing import Any

from torch import nn

from lostattn.anatomy import Attention, Block, Stack, Update
from lostattn.call_order import attention_in_comprehension, calls_attention, forward_calls
from lostattn.dataflow import ATTENTION_CALL, INPUT, OTHER, Call, Flow, Value, flow
from lostattn.errors import UnsupportedModel

FUSED_QKV = ("qkv", "qkv_proj", "c_attn", "Wqkv")  # rows of all queries, then all keys, then all values
SEPARATE = {
    **dict.fromkeys(("q_proj", "query", "q", "wq", "q_lin", "linear_q"), "q"),
    **dict.fromkeys(("k_proj", "key", "k", "wk", "k_lin", "linear_k"), "k"),
    **dict.fromkeys(("v_proj", "value", "v", "wv", "v_lin", "linear_v"), "v"),
}


_HEADS = ("num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads", "n_heads")


def tells_heads(config: Any) -> bool:
    """Whether a config says how many heads its layers have, one number for all."""
    return any(isinstance(getattr(config, name, None), int) for name in _HEADS)


def stack_of(prefix: str, path: str, layers: list[nn.Module], config: Any) -> Stack:
    """A list of layers with its sizes, as ``config`` has them; ``prefix`` is what its hook names begin with."""
    heads = _first(config, *_HEADS)
    width = _first(config, "hidden_size", "embed_dim", "d_model", "width")
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return Stack(
        prefix=prefix,
        blocks=tuple(block_of(f"{path}.{i}", layer, heads, kv_heads) for i, layer in enumerate(layers)),
        n_heads=heads,
        n_key_value_heads=kv_heads,
        d_head=getattr(config, "head_dim", None) or width // heads,
        d_model=width,
        d_mlp=_first(config, "intermediate_size", "mlp_dim", "ffn_dim", "d_ff", "decoder_ffn_dim", default=0),
    )


def _first(config: Any, *names: str, default: int | None = None) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    if default is not None:
        return default
    raise UnsupportedModel(f"{type(config).__name__} says none of {', '.join(names)} as one number for all layers.")


def block_of(path: str, layer: nn.Module, n_heads: int, n_kv: int) -> Block:
    """Read a layer: what mixes positions, where the stream stands between the updates, and what adds them."""
    read = flow(layer)
    at = next((i for i, c in enumerate(read.calls) if _attention_in(layer.get_submodule(c.child)) is not None), None)
    middle = _middle(read, at)
    mixer = at if at is not None else _mixer(layer, read, middle)
    attention = None if at is None else _attention_in(layer.get_submodule(read.calls[at].child))
    below = "" if attention is None or not attention else f".{attention}"
    first = read.calls[mixer] if mixer is not None else None
    attn_update, mlp_update = _updates(path, layer, read, mixer, middle)
    ln1 = None if first is None else _norm_before(layer, read, first)
    ffn = _ffn(path, layer, read, mixer, middle)
    child = None if first is None else f"{path}.{first.child}"
    return Block(
        path=path,
        ln1=f"{path}.{ln1}" if ln1 else None,
        attn=None if at is None or first is None else _attention(f"{child}{below}", layer, n_heads, n_kv, path),
        attn_out=child,
        mid=f"{path}.{read.calls[middle].child}" if middle is not None else None,
        attn_update=attn_update,
        mlp_update=mlp_update,
        **ffn,
    )


def _attention_in(module: nn.Module) -> str | None:
    """The path, below a module, of the first one that calls the attention interface (``""``: the module itself)."""
    return next((path for path, inner in module.named_modules() if calls_attention(inner)), None)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _middle(read: Flow, at: int | None) -> int | None:
    """The first call after the attention that is given the layer's input with something added to it."""
    for i, call in enumerate(read.calls):
        if i > (at if at is not None else -1) and call.given and _is_stream(call.given[0]):
            return i
    return None


def _is_stream(value: Value) -> bool:
    return value.kind == "sum" and value.factor == 1.0 and INPUT in value.parts


def _mixer(layer: nn.Module, read: Flow, middle: int | None) -> int | None:
    """In a layer without attention: what stands in its place, the last module before the middle that is no norm."""
    before = [
        i
        for i, call in enumerate(read.calls[:middle] if middle is not None else ())
        if not _is_norm(layer.get_submodule(call.child))
    ]
    return before[-1] if before else None


def _norm_before(layer: nn.Module, read: Flow, first: Call) -> str | None:
    """The norm of the stream whose output the attention is given."""
    sources = {value.child for value in first.given if value.kind == "child"}
    for call in read.calls:
        if call.child in sources and call.given[:1] == (INPUT,) and _is_norm(layer.get_submodule(call.child)):
            return call.child
    return None


def _updates(
    path: str, layer: nn.Module, read: Flow, mixer: int | None, middle: int | None
) -> tuple[Update | None, Update | None]:
    """The children whose outputs are added to the stream, by attention (or what is in its place) and by the FFN."""
    if mixer is None:
        return None, None
    if middle is not None:
        added = [part for part in read.calls[middle].given[0].parts if part != INPUT]
        rest = [p for p in read.result.parts if p != INPUT and p not in added]
        if len(added) != 1 or not _is_stream(read.result) or len(read.result.parts) != len(rest) + 2:
            rest = []
    elif _is_stream(read.result):
        parts = [part for part in read.result.parts if part != INPUT]
        added = [p for p in parts if p.child == read.calls[mixer].child]
        rest = [p for p in parts if p not in added]
    else:
        return None, None
    return _update(path, layer, read, added), _update(path, layer, read, rest)


def _update(path: str, layer: nn.Module, read: Flow, parts: list[Value]) -> Update | None:
    if len(parts) != 1 or parts[0].kind != "child":
        return None
    added = f"{path}.{parts[0].child}"
    calls = [call for call in read.calls if call.child == parts[0].child]
    if parts[0].factor is None and any(INPUT in c.given and sum(v.known for v in c.given) > 1 for c in calls):
        return Update(added, None, joins=True)
    if not _is_norm(layer.get_submodule(parts[0].child)):
        return Update(added, parts[0].factor, added)
    given = next((call.given[0] for call in calls if call.given), OTHER)
    if given.kind != "child" or given.factor is None:
        return Update(added, parts[0].factor)
    return Update(added, parts[0].factor, f"{path}.{given.child}", given.factor)


def _ffn(path: str, layer: nn.Module, read: Flow, mixer: int | None, middle: int | None) -> dict[str, Any]:
    """The norm before the FFN, the FFN, and its linear maps where it is made of two or three of them."""
    out: dict[str, Any] = {"ln2": None, "mlp": None, "mlp_order": (), "mlp_post": None, "mlp_out": None}
    start = middle if middle is not None else mixer
    after = read.calls[start + (middle is None) :] if start is not None else ()
    if middle is not None and _is_norm(layer.get_submodule(read.calls[middle].child)):
        out["ln2"] = f"{path}.{read.calls[middle].child}"
        after = after[1:]
    modules = [(call.child, layer.get_submodule(call.child)) for call in after if call.child != ATTENTION_CALL]
    # Cross-attention may stand between the stream's middle and the FFN.
    names = [name for name, module in modules if not _is_norm(module) and _attention_in(module) is None]
    if not names:
        return out
    first = layer.get_submodule(names[0])
    if isinstance(first, nn.Linear):  # the maps of the FFN are the layer's own
        linears, inner, last = [n for n in names if isinstance(layer.get_submodule(n), nn.Linear)], path, None
    else:
        ffn = flow(first)
        inner = f"{path}.{names[0]}"
        linears = [call.child for call in ffn.calls if isinstance(first.get_submodule(call.child), nn.Linear)]
        last = ffn.result.child if ffn.result.kind == "child" and ffn.result.factor == 1.0 else ""
        out["mlp"] = out["mlp_out"] = inner
        if any(not isinstance(m, nn.Linear) and list(m.children()) for m in first.children()):
            return out  # experts
    if len(linears) not in (2, 3) or (last is not None and last != linears[-1]) or len(set(linears)) != len(linears):
        return out
    holder = first if out["mlp"] else layer
    width = holder.get_submodule(linears[-1]).in_features
    out["mlp_post"] = out["mlp_out"] = f"{inner}.{linears[-1]}"
    if all(holder.get_submodule(n).out_features == width for n in linears[:-1]):
        kinds = ("pre", "pre_linear")[: len(linears) - 1]
        out["mlp_order"] = tuple(zip(kinds, (f"{inner}.{n}" for n in linears[:-1]), strict=True))
    return out


def _attention(path: str, layer: nn.Module, n_heads: int, n_kv: int, at: str) -> Attention:
    """The attention module's own parts; a projection that is not found, or not of the expected width, is ``None``."""
    module: Any = layer.get_submodule(path.removeprefix(f"{at}."))
    read = flow(module)
    names = [call.child for call in read.calls]
    where = max((i for i, name in enumerate(names) if name == ATTENTION_CALL), default=len(names))
    n_heads = next((v for n in ("num_heads", "num_attention_heads", "n_heads") if (v := _own(module, n))), n_heads)
    groups = _own(module, "num_key_value_groups")
    n_kv = _own(module, "num_key_value_heads") or (n_heads // groups if groups else min(n_kv, n_heads))
    head = _own(module, "head_dim") or _own(module, "attention_head_size")
    before = [n for n in dict.fromkeys(names[:where]) if n != ATTENTION_CALL]
    found: dict[str, str] = {}
    for name in before:
        letter = SEPARATE.get(name.rpartition(".")[2])
        width = getattr(module.get_submodule(name), "out_features", None)
        heads = n_heads if letter == "q" else n_kv
        if letter and width and width % heads == 0 and (head is None or width == heads * head):
            found[letter] = f"{path}.{name}"
    fused = next((n for n in before if n in FUSED_QKV and _thirds(module.get_submodule(n), n_heads)), None)
    after = [c for c in read.calls[where + 1 :] if isinstance(module.get_submodule(c.child), nn.Linear)]
    output = next((c for c in after if c.given and c.given[0].known and c.given[0].kind != "input"), None)
    calls = [name for name, _ in forward_calls(module) if name == ATTENTION_CALL]
    projected = Value("child", found["v"].removeprefix(f"{path}.")) if "v" in found else None
    return Attention(
        path=path,
        # nnsight numbers the binding `attention_interface = …` as 0 and the calls from 1; the last call is
        # the one that ordinary kernels take (flash attention has a branch of its own before it).
        operation=f"{ATTENTION_CALL}_{len(calls)}",
        windows=attention_in_comprehension(module),
        q=found.get("q"),
        k=found.get("k"),
        v=found.get("v"),
        qkv=f"{path}.{fused}" if fused else None,
        order=tuple(f"{path}.{n}" for n in before if f"{path}.{n}" in found.values() or n == fused),
        o=f"{path}.{output.child}" if output else None,
        n_heads=n_heads,
        n_key_value_heads=n_kv,
        gives_o=output is not None and read.result == Value("child", output.child),
        z_is_kernels=output is not None and output.given[0] == Value("child", ATTENTION_CALL),
        v_is_values=projected is not None and where < len(names) and projected in read.calls[where].given,
    )


def _own(module: Any, name: str) -> int | None:
    value = getattr(module, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


_SIZES = (("in_features", "nx"), ("out_features", "nf"))  # of a linear map, and of GPT-2's, which is called Conv1D


def _thirds(module: Any, n_heads: int) -> bool:
    """Whether a projection gives equally many queries, keys and values."""
    given, width = (getattr(module, long, getattr(module, short, 0)) for long, short in _SIZES)
    return bool(width) and width == 3 * given and width % (3 * n_heads) == 0

"""The attention boundary: scores and patterns from q, k and mask, and edited rows written back.

Shapes here follow transformers' attention interface: ``query [batch, head, query, d_head]``,
``key``/``value [batch, kv_head, key, d_head]``, and the kernel's output ``[batch, query, head, d_head]``.
Grouped heads are handled without ever repeating the keys.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lostattn.kernels.touched import note_change


def call_arguments(arguments, keywords):
    """The parts of a call ``attention_interface(module, query, key, value, mask, scaling=…)`` by name."""
    named = dict(zip(("module", "query", "key", "value", "attention_mask"), arguments, strict=False))
    named.update(keywords)
    scaling = named.get("scaling")
    if scaling is None:
        scaling = named["query"].shape[-1] ** -0.5
    causal = named.get("is_causal")
    if causal is None:
        causal = getattr(named["module"], "is_causal", True)
    mask = named.get("attention_mask")
    # Kernels read is_causal only where no mask is given, and never for a single query row; eager and flex never do.
    causal = bool(causal) and (mask is None or len(mask.shape) == 2) and named["query"].shape[2] > 1
    kernel = str(getattr(getattr(named["module"], "config", None), "_attn_implementation", None))
    causal = causal and kernel != "eager" and not kernel.startswith("flex")
    if causal and "flash" not in kernel and named["key"].shape[2] > named["query"].shape[2]:
        causal = "first"  # room for keys to come (a cache of fixed length): sdpa counts from the first key
    return named["query"], named["key"], named["value"], mask, float(scaling), causal


def call_extras(arguments, keywords):
    """What else a kernel may be given: a soft cap of the scores, attention sinks, an additive bias of positions."""
    sinks = keywords.get("s_aux")
    return {
        "softcap": keywords.get("softcap"),
        "sinks": keywords.get("sinks") if sinks is None else sinks,
        "bias": keywords.get("position_bias"),
    }


def of_blocks(mask, rows, n_keys: int):
    """Some rows of the mask of flex attention, ``[batch, 1, row, key]``: it is a rule and no tensor."""
    batch, keys = torch.arange(mask.shape[0], device=rows.device), torch.arange(n_keys, device=rows.device)
    seen = mask.mask_mod(batch[:, None, None, None], torch.zeros_like(batch[:1]), rows[:, None], keys)
    return seen.expand(len(batch), 1, len(rows), n_keys)


def visible_keys(
    mask, causal: bool | str, rows: Int[Tensor, " row"], n_queries: int, n_keys: int, lengths=None
) -> Bool[Tensor, "batch head row key"]:
    """Which keys each row may see, as a mask that broadcasts over batch and head.

    ``mask`` is what the kernel was given: ``None``, a boolean or additive mask ``[batch, 1 | head, query, key]``, a
    padding mask ``[batch, key]``, or the blocks of flex attention. ``causal`` lets the last query see every key, and
    each before it one key less; ``"first"`` lets the first query see the first key alone, and each after it one key
    more. ``lengths`` cuts the sequence into windows that do not see each other.
    """
    if lengths is not None:
        window = torch.repeat_interleave(torch.arange(len(lengths), device=rows.device), lengths.to(rows.device))
        return (window[rows][:, None] == window[None, :])[None, None]
    visible = torch.ones(1, 1, len(rows), n_keys, dtype=torch.bool, device=rows.device)
    if causal:
        last = rows if causal == "first" else rows + (n_keys - n_queries)
        visible = (torch.arange(n_keys, device=rows.device)[None, :] <= last[:, None])[None, None]
    if mask is None:
        return visible
    if not isinstance(mask, torch.Tensor):
        return visible & of_blocks(mask, rows, n_keys)
    if mask.dim() == 2:
        return visible & mask[:, None, None, :n_keys].bool()
    mask = mask[:, :, rows, :n_keys]
    return visible & (mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2)


def attention_scores(
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    mask,
    causal: bool | str,
    scaling: float,
    rows: Int[Tensor, " row"],
    lengths=None,
    extras=None,
    sight=None,
) -> tuple[Float[Tensor, "batch head row key"], Bool[Tensor, "_ _ row key"]]:
    """Scores before the softmax, for the given query rows only, in float32 at least; unseen keys are -inf.

    ``extras`` (:func:`call_extras`) holds a soft cap and a position bias, which act before the mask does. ``sight`` is
    what the rows may see, where it is known: ``(visible, whether that is everything)``.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    asked = (query if query.shape[2] == 1 else query[:, :, rows]).to(wide)
    groups = asked.unflatten(1, (key.shape[1], -1))
    scores = product(groups, key.unsqueeze(2).transpose(-1, -2)).flatten(1, 2) * scaling
    if extras is not None and extras["softcap"] is not None:
        scores = torch.tanh(scores / extras["softcap"]) * extras["softcap"]
    if extras is not None and extras["bias"] is not None:
        scores = scores + extras["bias"][:, :, rows, : key.shape[2]].to(wide)
    if sight is None:
        sight = visible_keys(mask, causal, rows, query.shape[2], key.shape[2], lengths), False
    visible, everything = sight
    if isinstance(mask, torch.Tensor) and mask.dim() == 4 and mask.dtype != torch.bool:
        scores = scores + mask[:, :, rows, : key.shape[2]].to(wide)
    return scores if everything else scores.masked_fill(~visible, float("-inf")), visible


def softmax_rows(
    scores: Float[Tensor, "batch head row key"], sinks=None, everything: bool = False
) -> Float[Tensor, "batch head row key"]:
    """Softmax over the keys; a row that sees nothing gives all zeros instead of NaN (with ``everything`` no row does).

    ``sinks [head]``, or ``[batch, head, row, 1]``, are scores of a key that holds nothing: it takes its share of a row
    and is left out.
    """
    if everything and sinks is None:
        return torch.softmax(scores, dim=-1)
    empty = (scores == float("-inf")).all(-1, keepdim=True)
    filled = scores.masked_fill(empty, 0.0)
    if sinks is None:
        return torch.softmax(filled, dim=-1).masked_fill(empty, 0.0)
    column = sinks.to(scores.dtype)
    column = (column if sinks.dim() == 4 else column.reshape(1, -1, 1, 1)).expand(*scores.shape[:3], 1)
    return torch.softmax(torch.cat([filled, column], dim=-1), dim=-1)[..., :-1].masked_fill(empty, 0.0)


def sinks_of(extras, rows):
    """The sinks of some query rows: one a head, or one a head and row; ``None`` where there are none."""
    sinks = None if extras is None else extras["sinks"]
    return sinks if sinks is None or sinks.dim() != 4 else sinks[:, :, rows]


def mixed_values(
    pattern: Float[Tensor, "batch head row key"], value: Float[Tensor, "batch kv_head key d_value"]
) -> Float[Tensor, "batch row head d_value"]:
    """What the given attention weights read: ``pattern @ value`` per head, in the kernel's output layout."""
    groups = pattern.unflatten(1, (value.shape[1], -1))
    return product(groups, value.unsqueeze(2)).flatten(1, 2).transpose(1, 2)


def product(
    left: Float[Tensor, "batch kv_head group row inner"], right: Float[Tensor, "batch kv_head 1 inner column"]
) -> Float[Tensor, "batch kv_head group row column"]:
    """``left @ right`` in the dtype of ``left``, for few rows.

    On a CPU, long keys or values of another dtype are converted some keys at a time: a copy of all of them would take
    longer than the product, most of it to find the memory.
    """
    if right.dtype == left.dtype or right.is_cuda or right.numel() < 1 << 20:
        return left @ right.to(left.dtype)
    keys = -1 if right.shape[-1] > right.shape[-2] else -2
    step = max(1, (1 << 18) * right.shape[keys] // right.numel())
    if keys == -1:
        return torch.cat([left @ part.to(left.dtype) for part in right.split(step, -1)], -1)
    out = left.new_zeros(left.shape[:-1] + right.shape[-1:])
    for weights, part in zip(left.split(step, -1), right.split(step, -2), strict=True):
        out = out + weights @ part.to(left.dtype)
    return out


def mask_at_step(positions, step: int, n: int):
    """A choice of prompt positions, carried over to a step: ``(mask [batch, prompt], extends)`` -> ``[batch, n]``.

    Each step after the prompt's pass adds one token, which belongs to the choice where ``extends`` says so. The ``n``
    rows or keys at hand are the last ones: a window lets go of those before. What there is more of than positions (room
    for tokens to come in a cache of fixed length, or the keys of an encoder) comes behind them and is not chosen. Where
    ``extends`` is ``None`` the choice is among keys that no step adds to, those of cross-attention, and stays as it is;
    a third mask is over such keys that stand behind the positions, in the same softmax.
    """
    mask, extends = positions[:2]
    if len(positions) == 3:
        behind = positions[2]
        return torch.cat([mask_at_step(positions[:2], step, n - behind.shape[1]), behind], dim=1)
    if extends is None:
        return mask
    if step:
        more = torch.full((mask.shape[0], step), extends, dtype=torch.bool, device=mask.device)
        mask = torch.cat([mask, more], dim=1)
    return torch.nn.functional.pad(mask, (0, n - mask.shape[1])) if n > mask.shape[1] else mask[:, mask.shape[1] - n :]


def wanted_rows(edits, step: int, n_queries: int, device):
    """The query rows that at least one edit touches in at least one item of the batch."""
    touched = torch.zeros(n_queries, dtype=torch.bool, device=device)
    for edit in edits:
        if edit["queries"] is None:
            return torch.arange(n_queries, device=device)
        touched |= mask_at_step(edit["queries"], step, n_queries).to(device).any(0)
    return touched.nonzero()[:, 0]


def selection(edit, visible, rows, n_heads: int, step: int, n_queries: int):
    """The cells ``[batch, head, row, key]`` that an edit may touch: its queries, keys and heads, where visible."""
    chosen = visible
    if edit["queries"] is not None:
        chosen = chosen & mask_at_step(edit["queries"], step, n_queries).to(visible.device)[:, None, rows, None]
    if edit["keys"] is not None:
        chosen = chosen & mask_at_step(edit["keys"], step, visible.shape[-1]).to(visible.device)[:, None, None, :]
    if edit["heads"] is not None:
        heads = torch.zeros(n_heads, dtype=torch.bool, device=visible.device)
        heads[list(edit["heads"])] = True
        chosen = chosen & heads[None, :, None, None]
    return chosen


def selection_once(edit, visible, rows, n_heads: int, n_queries: int, here):
    """``selection``; at a decoding step worked out once for all layers that are edited alike and see the same."""
    if n_queries > 1:
        return selection(edit, visible, rows, n_heads, here["step"], n_queries)
    known = here.setdefault("cells", {})
    key = (id(visible), id(edit["queries"]), id(edit["keys"]), edit["heads"], n_heads)
    if key not in known:  # with what the key names by its place in memory, so that it stays there
        known[key] = (visible, selection(edit, visible, rows, n_heads, here["step"], n_queries))
    return known[key][1]


def edited_rows(scores, visible, rows, score_edits, pattern_edits, n_queries: int, here, sinks=None, everything=False):
    """Run the edits over some rows, first those of the scores and then those of the pattern.

    Returns ``(scores, old pattern, new pattern)``. The old pattern is computed exactly as the new one is, so an
    edit that changes nothing gives a difference of exactly zero. A cell whose score an edit has taken away is no cell
    of any edit after it, so what is knocked out stays out.
    """
    n_heads = scores.shape[1]
    here["rows"] = rows
    before = softmax_rows(scores, sinks, everything)
    for i, edit in enumerate(score_edits):
        cells = selection_once(edit, visible, rows, n_heads, n_queries, here)
        if i:
            cells = cells & (scores > float("-inf"))
        given = scores
        scores = edit["kernel"](given, cells, here, **edit["params"])
        note_change(edit, given, scores, here, True)
    after = softmax_rows(scores, sinks) if score_edits else before
    left = scores > float("-inf") if score_edits and pattern_edits else None
    for edit in pattern_edits:
        cells = selection_once(edit, visible, rows, n_heads, n_queries, here)
        given = after
        after = edit["kernel"](given, cells if left is None else cells & left, here, **edit["params"])
        note_change(edit, given, after, here, True)
    return scores, before, after


def add_difference(
    output: Float[Tensor, "batch query head d_value"],
    difference: Float[Tensor, "batch head row key"],
    value: Float[Tensor, "batch kv_head key d_value"],
    rows: Int[Tensor, " row"],
) -> Float[Tensor, "batch query head d_value"]:
    """The kernel's output with ``difference @ value`` added to the edited rows, and every other row untouched."""
    change = mixed_values(difference, value).to(output.dtype)
    if output.requires_grad:
        return output.index_add(1, rows, change)
    # The kernel's output is fresh and nobody has seen it yet: no copy of S rows for an edit of one.
    return output.index_add_(1, rows, change)

"""What is put in the place of learned attention: values ``[batch, head | 1, row | 1, key]`` for the chosen cells."""

from __future__ import annotations

import torch


def gaussian(x, cells, here, seeds):
    """Normal draws with the mean and standard deviation of what they replace, row by row and head by head.

    Each item draws for its own rows and keys from its own seed, so neither padding nor batch mates change them.
    """
    count = cells.sum(-1, keepdim=True).clamp_min(1)
    inside = torch.where(cells, x, 0.0)
    mean = inside.sum(-1, keepdim=True) / count
    std = (torch.where(cells, (x - mean) ** 2, 0.0).sum(-1, keepdim=True) / count).sqrt()
    return mean + std * draws(cells, seeds, here["step"], False)


def dirichlet(x, cells, here, seeds, shared: bool):
    """Dirichlet(1, …, 1) over the chosen keys: one draw for all rows and heads if ``shared``, else one for each."""
    drawn = draws(cells, seeds, here["step"], True, shared)
    exponential = torch.where(cells, -torch.log(drawn.clamp_min(1e-30)), 0.0)
    return exponential / exponential.sum(-1, keepdim=True).clamp_min(1e-30)


def uniform(x, cells, here):
    """The same weight for every chosen key of a row, one in all."""
    return cells / cells.sum(-1, keepdim=True).clamp_min(1)


def draws(cells, seeds, step: int, uniform: bool, shared: bool = False):
    """Standard normal (or uniform) numbers on the cells, from one seed for each item of the batch."""
    out = torch.zeros(cells.shape, dtype=torch.float32, device=cells.device)
    for b in range(cells.shape[0]):
        rows = cells[b].any(0).any(-1).nonzero()[:, 0]
        keys = cells[b].any(0).any(0).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        size = (1, 1, len(keys)) if shared else (cells.shape[1], len(rows), len(keys))
        generator = torch.Generator().manual_seed(seeds[b] + step)
        draw = torch.rand if uniform else torch.randn
        noise = draw(size, generator=generator, dtype=torch.float32)
        noise = noise.to(cells.device).expand(cells.shape[1], len(rows), len(keys))
        out[b, :, rows[:, None], keys[None, :]] = noise
    return out


def given_prior(x, cells, here, values, grows=True):
    """Values made before the pass, ``[batch, head | 1, row | 1, key of the prompt]``; generated keys get nothing.

    Keys of cross-attention are the same ones at every step: they do not grow.
    """
    values = values.to(x)
    if not grows:
        return values
    if values.shape[2] > 1:
        values = values[:, :, here["rows"]]
    return on_keys(values, here["step"], x.shape[-1])


def on_keys(values, step: int, n_keys: int):
    """Values by position of the prompt, laid onto the keys at hand at a step; tokens since the prompt get nothing.

    A window has let go of the first keys; a cache of fixed length has room behind the last one.
    """
    total = values.shape[-1] + step
    room = max(total, n_keys) - values.shape[-1]
    wide = torch.nn.functional.pad(values, (0, room)) if room else values
    return wide[..., total - n_keys :] if n_keys < total else wide


def remembered_prior(x, cells, here, slot, image_mask, grows=True):
    """A prior that an observer left in memory earlier in the same pass: one number per image token, in order."""
    image_mask = image_mask.to(x.device)
    values = torch.zeros(image_mask.shape, dtype=x.dtype, device=x.device)
    values[image_mask] = here["memory"][slot].to(x)
    return on_keys(values, here["step"] if grows else 0, x.shape[-1])[:, None, None, :]


def observe_vision(x, cells, here, slot, shape, index, weights, queries, group, share):
    """Leave the vision tower's attention, averaged over heads and queries, in memory as one number per token.

    ``index [token, part]`` says which of the tower's places, counted through its sequences, a token is made of (-1:
    fewer than others). The largest of them counts, or where ``weights`` are given their weighted sum. ``queries
    [sequence, place]`` leaves out those that stand for nothing. The tokens of a ``group`` (not -1) share out the number
    that ``share`` has for it. The pattern itself is not changed.
    """
    if (x.shape[0], x.shape[-1]) != tuple(shape):
        raise ValueError(
            f"the vision tower's attention has {x.shape[0]} sequences of {x.shape[-1]} places; expected {tuple(shape)}"
        )
    visible = x > 0
    if queries is not None:
        real = queries.to(x.device)[:, None, :, None]
        x_real, visible = x * real, visible & real
    else:
        x_real = x
    seen = visible.any(1).sum(1)  # how many queries give a key any weight
    prior = (x_real.mean(1).sum(1) / seen.clamp_min(1)).flatten()
    index = index.to(prior.device).long()
    parts = torch.where(index >= 0, prior[index.clamp_min(0)], 0.0)
    tokens = parts.max(-1).values if weights is None else (parts * weights.to(parts)).sum(-1)
    if group is not None:
        group, share = group.to(prior.device).long(), share.to(tokens)
        inside = group >= 0
        total = torch.zeros_like(share).index_add(0, group[inside], tokens[inside])
        scaled = tokens * (share / total.clamp_min(1e-30))[group.clamp_min(0)]
        tokens = torch.where(inside, scaled, tokens)
    here["memory"][slot] = tokens
    return x

"""Edits of attention rows and of activations, as plain functions of tensors.

At the attention boundary an edit is ``kernel(x, cells, here, **params)``: ``x [batch, head, row, key]`` holds scores
or weights, ``cells`` (broadcastable to it) what may be touched. Elsewhere it is ``kernel(x, here, **params)``.
``here`` tells about the pass: its ``step``, the ``rows`` at hand, and a ``memory`` that lasts for a generation.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lostattn.kernels.attention import mask_at_step


def cell_mean(x: Float[Tensor, "*rows key"], cells: Bool[Tensor, "..."]) -> Float[Tensor, "*rows 1"]:
    """Mean over the keys that are in ``cells`` (0 where there are none)."""
    inside = torch.where(cells, x, 0.0)
    return inside.sum(-1, keepdim=True) / cells.expand_as(x).sum(-1, keepdim=True).clamp_min(1)


def cell_std(x: Float[Tensor, "*rows key"], cells: Bool[Tensor, "..."]) -> Float[Tensor, "*rows 1"]:
    """Population standard deviation over the keys that are in ``cells``."""
    centred = torch.where(cells, x - cell_mean(x, cells), 0.0)
    return cell_mean(centred * centred, cells).sqrt()


def heads_between(x: Float[Tensor, "batch head row key"], cells: Bool[Tensor, "..."], low: float, high: float):
    """The heads whose mean score on the other visible keys lies between two quantiles over the heads."""
    keys = cells.any(1, keepdim=True)  # what a head left out of ``cells`` is judged by is the same
    others = ~keys & (x > float("-inf"))
    mean = cell_mean(torch.where(others, x, 0.0), others)
    bounds = torch.quantile(mean, torch.tensor([low, high], dtype=mean.dtype, device=mean.device), dim=1)
    return (mean >= bounds[0].unsqueeze(1)) & (mean <= bounds[1].unsqueeze(1))


def several(cells):
    """The rows with more than one cell: a single one that keeps its mass, or its mean, stays as it is."""
    return cells.sum(-1, keepdim=True) > 1


def replace_weights(x, cells, here, draw, draw_params, mix, keep_mass):
    """Replace attention weights: ``(1 - mix) * x + mix * new`` on the cells.

    Negative draws are cut to zero, as a weight cannot be negative. With ``keep_mass`` the new weights of a row share
    out what its old ones on the same keys summed to, so that the rest of the row is left as it was.
    """
    cells = cells.expand_as(x)
    new = torch.where(cells, draw(x, cells, here, **draw_params), 0.0).clamp_min(0.0)
    if keep_mass:
        cells = cells & several(cells)
        total = new.sum(-1, keepdim=True)
        mass = torch.where(cells, x, 0.0).sum(-1, keepdim=True)
        new = torch.where(total > 0, new * (mass / total.clamp_min(torch.finfo(x.dtype).tiny)), x)
    return torch.where(cells, new if mix == 1.0 else (1.0 - mix) * x + mix * new, x)


def replace_scores(x, cells, here, draw, draw_params, mix, align, percentiles):
    """Replace scores before the softmax: ``(1 - mix) * x + mix * aligned`` on the cells.

    ``align`` brings the drawn values to the scale of the scores: ``"moments"`` gives them the mean and standard
    deviation of what they replace; ``"released"`` multiplies them by ``|mean(x)| / (2 |mean(drawn)|)``.
    """
    cells = cells & (x > float("-inf"))  # what an earlier edit knocked out stays out
    if percentiles is not None:
        cells = cells & heads_between(x, cells, percentiles[0], percentiles[1])
    old = torch.where(cells, x, 0.0)
    new = torch.where(cells, draw(old, cells, here, **draw_params), 0.0)
    if align == "moments":
        spread = cell_std(new, cells)
        unit = torch.where(spread > 0, (new - cell_mean(new, cells)) / spread.clamp_min(1e-30), 0.0)
        new = cell_mean(old, cells) + cell_std(old, cells) * unit
        cells = cells & several(cells)
    elif align == "released":
        new = new * (cell_mean(old, cells).abs() / (2.0 * cell_mean(new, cells).abs()).clamp_min(1e-30))
    return torch.where(cells, (1.0 - mix) * old + mix * new, x)


def scale_cells(x, cells, here, factor):
    """Multiply the cells by a number."""
    return torch.where(cells, x * factor, x)


def block_cells(x, cells, here):
    """Take the cells out of the softmax: their scores become -inf, and the row's other keys share its mass."""
    return x.masked_fill(cells, float("-inf"))


def call_rows(x, cells, here, function, hook):
    """A user's hook on scores or pattern: it sees and may change all rows; ``None`` keeps what it changed in place."""
    return call_hook(x, here, function, hook)


def call_hook(x, here, function, hook):
    """A user's hook on a tensor, in TransformerLens' manner: ``function(value, hook) -> value or None``."""
    edited = x.clone()
    result = function(edited, hook)
    if result is None:
        result = edited
    right = torch.is_tensor(result) and result.shape == x.shape and result.device == x.device
    if not right or result.is_complex():
        got = type(result).__name__
        if torch.is_tensor(result):
            got = f"shape {tuple(result.shape)} of {result.dtype} on {result.device}"
        raise ValueError(
            f"the hook at {hook.name!r} returned {got}; expected the new value, a tensor of shape {tuple(x.shape)} "
            f"on {x.device}, or None."
        )
    return result.to(x.dtype)


def chosen_positions(x, here, positions):
    """Which rows of ``x [batch, pos, …]`` are meant, at the prompt's pass or at a decoding step."""
    chosen = mask_at_step(positions, here["step"], x.shape[1]).to(x.device)
    return chosen.reshape(*chosen.shape, *([1] * (x.dim() - 2)))


def chosen_heads(x, heads):
    """Which heads of ``x [batch, pos, head, d_head]`` are meant; all where ``heads`` is None."""
    if heads is None:
        return True
    chosen = torch.zeros(x.shape[2], dtype=torch.bool, device=x.device)
    chosen[list(heads)] = True
    return chosen[:, None]


def keep_pool(x, here, real, slot):
    """Leave each item's real rows in memory, for an :func:`ablate` of later steps; nothing is changed."""
    valid = chosen_positions(x, here, real).reshape(x.shape[:2])
    here["memory"][slot] = [x[b][valid[b]] for b in range(x.shape[0])]
    return x


def ablate(x, here, to, positions, real, heads, seeds, reference, slot):
    """Replace activations by zeros, by a mean, or by those of other positions, at some positions and heads.

    ``reference`` (``[other, …]``, rows without a position) supplies mean and resamples where it is given; otherwise
    they come from the real positions of the same item in the prompt, which ``memory`` keeps for decoding steps.
    """
    chosen = chosen_positions(x, here, positions) & chosen_heads(x, heads)
    if to == "zero":
        return torch.where(chosen, torch.zeros_like(x), x)
    valid = chosen_positions(x, here, real).reshape(x.shape[:2])
    if reference is not None:
        here["memory"][slot] = [reference.to(x)] * x.shape[0]
    elif here["step"] == 0:
        keep_pool(x, here, real, slot)
    new = x.clone()
    for b in range(x.shape[0]):
        pool = here["memory"][slot][b]
        if to == "mean":
            new[b] = pool.mean(0)
        else:
            generator = torch.Generator().manual_seed(seeds[b] + here["step"])
            picks = torch.randint(len(pool), (int(valid[b].sum()),), generator=generator)
            new[b, valid[b]] = pool[picks.to(pool.device)]
    return torch.where(chosen, new, x)


def add_vector(x, here, vector, scale, positions):
    """Steering: add ``scale * vector`` to the stream at some positions."""
    chosen = chosen_positions(x, here, positions)
    return torch.where(chosen, x + scale * vector.to(x), x)


def noise_update(x, here, positions, real, std, seeds):
    """Noise in place of an update: Gaussian, with the update's own mean and standard deviation unless ``std`` is set.

    The moments are taken per item over its real positions, and only those draw, so that neither padding nor batch
    mates change an item's noise (Noise Δ).
    """
    chosen = chosen_positions(x, here, positions)
    valid = chosen_positions(x, here, real)
    new = torch.zeros_like(x)
    for b in range(x.shape[0]):
        rows = x[b][valid[b].reshape(x.shape[1])].float()
        mean, spread = (rows.mean(), rows.std(correction=0)) if std is None else (0.0, std)
        generator = torch.Generator().manual_seed(seeds[b] + here["step"])
        noise = torch.randn(rows.shape, generator=generator, dtype=torch.float32).to(x.device)
        new[b, valid[b].reshape(x.shape[1])] = (noise * spread + mean).to(x.dtype)
    return torch.where(chosen, new, x)


def as_answered(module, x):
    """Weight and bias of a linear map that is given ``x``, as it answers to unit vectors.

    What a module stores may be codes of few bits, or out of reach where only its structure is at hand.
    """
    unit = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    bias = (module(unit[:1]) + module(-unit[:1]))[0] / 2
    return (module(unit) - bias).T, bias


def noise_linear(x, here, seed: int, shape=None, mean=0.0, spread=1.0, bias=None):
    """The output of a linear map whose weight is replaced by a Gaussian of the same mean and standard deviation.

    The bias stays; the model's own weight is only read (Noise QKV). ``shape``, ``mean``, ``spread`` and ``bias`` are
    those of the map; without a shape the map is asked for them.
    """
    given = here["input"]
    if shape is None:
        weight, bias = as_answered(here["module"], given)
        weight = weight.float()
        shape, mean, spread = weight.shape, weight.mean(), weight.std(correction=0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator, dtype=torch.float32).to(given.device)
    drawn = (noise * spread + mean).to(given.dtype)
    noisy = torch.nn.functional.linear(given, drawn, None if bias is None else bias.to(given))
    return noisy.reshape(x.shape)


def put_held(x, here, name: str):
    """The value of an earlier point of the same pass in the place of this one."""
    return here["held"][name].to(x.dtype)

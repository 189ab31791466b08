"""The arithmetic of the metrics, as plain functions of tensors and numbers.

These functions may travel by source into a trace on a server that has torch and nothing of ours, so they
lean on torch and ``math`` alone, check nothing and raise nothing of ours: the public functions beside this
module check their arguments, then call these. A state is ``[*batch, pos, d_model]``; a mask is
``[*batch, pos]``, True at real tokens, or None. Everything inside is float64.

**How a state is decomposed.** Of the two sides of a state the shorter one is called *near*, the longer one
*far*; ``rows`` is the state, transposed if need be, as ``[*batch, near, far]``. Its float64 Gram matrix
``rows rowsᵀ`` gives singular values (square roots of eigenvalues), projections (Cholesky or eigenvectors) and
token cosines at a fraction of the price of a singular value decomposition. The price is precision: an
eigenvalue is off by up to ``GRAM_ERROR · σ_max²``, so a singular value by about ``GRAM_ERROR · σ_max² / σ``,
and one near ``1e-8 σ_max`` is lost. So every result carries an estimate of its own error, and a matrix for
which that estimate is above ``ACCURACY``, or whose rank it leaves open, is done again by a float64 SVD.
"""

from __future__ import annotations

import math

import torch

# Backward error of a float64 Gram matrix and its eigenvalues or Cholesky factor, relative to the largest
# eigenvalue: a few units of rounding, with room to spare (the tests compare it with SVDs).
GRAM_ERROR = 16 * 2.220446049250313e-16
# Largest error estimate, relative, that is let through without an SVD: of an effective rank and a residual
# norm.
ACCURACY = 1e-7
# Smallest σ_min / σ_max for which the Cholesky factor of a Gram matrix is asked for.
CHOLESKY_LIMIT = 1e-6
# Places of the far side that a product on a CPU takes at a time, and rows that an entropy does.
PART = 256
ROWS = 64


def to_float64(states, mask):
    """The state in float64, with zeros in its padded rows (whatever was there, NaN too)."""
    # Detached: with a gradient to keep, eigvalsh would compute eigenvectors too.
    x = states.detach().to(torch.float64)
    if mask is None:
        return x
    return torch.where(mask.unsqueeze(-1), x, torch.zeros((), dtype=x.dtype, device=x.device))


def parts_of(states, mask, wide):
    """``[*batch, near, part]`` after part: a state in float64, on a CPU ``PART`` places of its far side at a time.

    What is made of a part is used at once, and the next one overwrites it: memory that is asked for anew each time
    costs more than the conversion.
    """
    far = states.shape[-1] if wide else states.shape[-2]
    step = far if states.is_cuda else min(PART, far)
    shape = states.shape[:-1] + (step,) if wide else states.shape[:-2] + (step, states.shape[-1])
    held = torch.empty(shape, dtype=torch.float64, device=states.device)
    for start in range(0, far, step):
        end = min(start + step, far)
        if wide:
            part, source, real = held[..., : end - start], states[..., start:end], mask
        else:
            part, source = held[..., : end - start, :], states[..., start:end, :]
            real = None if mask is None else mask[..., start:end]
        part.copy_(source.detach())
        if real is not None:
            part.masked_fill_(~real.unsqueeze(-1), 0)
        yield part if wide else part.mT


def add_product(out, left, right):
    """``out += left rightᵀ`` for matrices, or batches of them."""
    if out.dim() == 2:
        out.addmm_(left, right.mT)
    else:
        out += left @ right.mT


def count_rows(states, mask):
    """``[*batch]`` int64: how many rows of each state are real."""
    if mask is None:
        return torch.full(states.shape[:-2], states.shape[-2], dtype=torch.int64, device=states.device)
    return mask.sum(-1)


def machine_epsilon(dtype):
    """The rounding unit that a numerical rank is measured in: of float32, or of float64 for float64
    states."""
    return torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps


def gram(states, mask, wide):
    """``rows rowsᵀ``, ``[*batch, near, near]``, of a state in float64; on a CPU by blocks, so that half the work is not
    done twice."""
    n = states.shape[-2] if wide else states.shape[-1]
    out = torch.zeros(states.shape[:-2] + (n, n), dtype=torch.float64, device=states.device)
    count = 1 if states.is_cuda or n < 128 else 6
    edges = [n * i // count for i in range(count + 1)]
    for part in parts_of(states, mask, wide):
        for a, b in zip(edges[:-1], edges[1:], strict=True):
            add_product(out[..., a:b, :b], part[..., a:b, :], part[..., :b, :])
    for a, b in zip(edges[1:-1], edges[2:], strict=True):
        out[..., :a, a:b] = out[..., a:b, :a].mT
    return out


def change(before, after, mask):
    """``Δ rowsᵀ`` ``[*batch, near, near]``, where Δ is what an update added to the rows, and ``‖Δ‖²`` ``[*batch]``."""
    wide = before.shape[-2] <= before.shape[-1]
    n = min(before.shape[-2:])
    cross = torch.zeros(before.shape[:-2] + (n, n), dtype=torch.float64, device=before.device)
    size2 = torch.zeros(before.shape[:-2], dtype=torch.float64, device=before.device)
    for rows, delta in zip(parts_of(before, mask, wide), parts_of(after, mask, wide), strict=True):
        delta.sub_(rows)
        add_product(cross, delta, rows)
        size2 = size2 + squared_norm(delta)
    return cross, size2


def effective_rank(sigma):
    """``exp(-Σ p ln p)`` with ``p = σ / Σσ`` over the last axis; 0 for a zero matrix."""
    total = sigma.sum(-1, keepdim=True)
    p = sigma / torch.where(total > 0, total, torch.ones_like(total))
    entropy = -torch.special.xlogy(p, p).sum(-1)
    return torch.where(total.squeeze(-1) > 0, entropy.exp(), torch.zeros_like(entropy))


def sigma_error(sigma):
    """How far off each singular value may be that came from a Gram matrix (descending, last axis)."""
    top = sigma[..., :1]
    return GRAM_ERROR * top**2 / torch.maximum(sigma, math.sqrt(GRAM_ERROR) * top).clamp_min(1e-300)


def rank_error(sigma, error):
    """The relative error of the effective rank, to first order, when each σ is off by ``error``."""
    total = sigma.sum(-1, keepdim=True).clamp_min(1e-300)
    p = sigma / total
    entropy = -torch.special.xlogy(p, p).sum(-1, keepdim=True)
    slope = torch.maximum(p, error / total).clamp_min(1e-300).log() + entropy
    return (slope.abs() * error / total).sum(-1)


def decompose(states, mask, tol):
    """Everything that the metrics need of one state, computed once; a dict of tensors.

    ``states`` and ``mask`` as they were given, read again in float64 part by part where they are needed; ``wide``
    bool, pos <= d_model; ``gram`` ``[*batch, near, near]``; ``sigma`` ``[*batch, near]`` descending; ``n_real``
    and ``rank`` ``[*batch]``; ``norm`` Frobenius; ``by_svd`` ``[*batch]`` bool, True where the Gram matrix would
    not do.
    """
    n_pos, d_model = states.shape[-2], states.shape[-1]
    n_real = count_rows(states, mask)
    wide = n_pos <= d_model
    square = gram(states, mask, wide)
    sigma = torch.linalg.eigvalsh(square, UPLO="U").flip(-1).clamp_min(0).sqrt()
    # A padded row adds a zero to the spectrum and nothing else: cut those off by count, not by size.
    real = torch.arange(sigma.shape[-1], device=states.device) < n_real.unsqueeze(-1)
    sigma = sigma * real
    if tol is None:
        relative = n_real.clamp_min(d_model).to(torch.float64) * machine_epsilon(states.dtype)
    else:
        relative = torch.full_like(sigma[..., 0], tol)
    error = sigma_error(sigma) * real
    floor = relative.unsqueeze(-1) * sigma[..., :1]
    open_rank = (((sigma - floor).abs() <= error) & real).any(-1)
    by_svd = (open_rank | (rank_error(sigma, error) > ACCURACY)) & (sigma[..., 0] > 0)
    if bool(by_svd.any()):
        sigma = refine(to_float64(states, mask), sigma, by_svd) * real
        floor = relative.unsqueeze(-1) * sigma[..., :1]
    return {
        "states": states.detach(),
        "mask": mask,
        "wide": wide,
        "gram": square,
        "sigma": sigma,
        "n_real": n_real,
        "rank": ((sigma > floor) & real).sum(-1),
        "norm": square.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt(),
        "by_svd": by_svd,
    }


def refine(x, sigma, chosen):
    """``sigma`` with the spectra of the chosen matrices replaced by those of float64 SVDs."""
    flat = x.reshape((-1,) + x.shape[-2:])
    out = sigma.reshape(-1, sigma.shape[-1]).clone()
    for i in chosen.reshape(-1).nonzero().flatten().tolist():
        out[i] = torch.linalg.svdvals(flat[i])
    return out.reshape(sigma.shape)


def support(before):
    """What a projection on the column and row spaces of a decomposed state needs; a dict of tensors.

    ``factor``: the Cholesky factor of the Gram matrix, where every matrix of the batch has full rank on its
    near side (the usual case, and the cheapest). Otherwise ``vectors``: eigenvectors, descending, near ×
    near.
    """
    square, sigma, rank = before["gram"], before["sigma"], before["rank"]
    near = before["n_real"] if before["wide"] else torch.full_like(rank, sigma.shape[-1])
    last = sigma.gather(-1, (rank - 1).clamp_min(0).unsqueeze(-1)).squeeze(-1)
    if bool(((rank == near) & (last > CHOLESKY_LIMIT * sigma[..., 0])).all()):
        # Padded rows of the Gram matrix are zero; ones on their diagonal leave the others as they are.
        empty = torch.arange(square.shape[-1], device=square.device) >= near.unsqueeze(-1)
        if bool(empty.any()):
            diagonal = square.diagonal(dim1=-2, dim2=-1)
            square = square + torch.diag_embed((diagonal == 0).to(square.dtype))
        factor, failed = torch.linalg.cholesky_ex(square)
        if not bool(failed.any()):
            return {"factor": factor, "vectors": None}
    return {"factor": None, "vectors": torch.linalg.eigh(square)[1].flip(-1)}


def innovation(before, basis, after, moved=None):
    """``‖(I − P_C) X'‖_F / ‖X'‖_F`` and ``‖X' (I − P_R)‖_F / ‖X'‖_F``, each ``[*batch]``; 0 where X' is zero.

    ``before`` and ``after`` are decompositions, ``basis`` is ``support(before)``, ``moved`` the ``change`` from one to
    the other where that is known already. Where X has as many independent rows (columns) as there are, P_C (P_R) is
    the identity and the term is exactly zero.
    """
    near2, far2, error2 = residuals(before, basis, after, moved)
    rank = before["rank"]
    no_column = rank == before["n_real"]
    no_row = rank == before["states"].shape[-1]
    near_zero, far_zero = (no_column, no_row) if before["wide"] else (no_row, no_column)
    near2 = torch.where(near_zero, torch.zeros_like(near2), near2.clamp_min(0))
    far2 = torch.where(far_zero, torch.zeros_like(far2), far2.clamp_min(0))
    poor = (error2[0] > 2 * ACCURACY * near2) & ~near_zero | (error2[1] > 2 * ACCURACY * far2) & ~far_zero
    near, far = near2.sqrt(), far2.sqrt()
    if bool(poor.any()):
        near, far = project_by_svd(before, after, near, far, poor)
        near = torch.where(near_zero, torch.zeros_like(near), near)
        far = torch.where(far_zero, torch.zeros_like(far), far)
    column, row = (near, far) if before["wide"] else (far, near)
    norm = after["norm"]
    safe = torch.where(norm > 0, norm, torch.ones_like(norm))
    return column / safe, row / safe


def squared_norm(matrix):
    """The squared Frobenius norm over the last two axes, without a temporary of the matrix's size."""
    return torch.linalg.vector_norm(matrix, dim=(-2, -1)).square()


def residuals(before, basis, after, moved=None):
    """Squared residuals of X' off the near and the far support of X, and an estimate of the error of each."""
    cross, delta2 = change(before["states"], after["states"], before["mask"]) if moved is None else moved
    if basis["factor"] is not None:
        # X (I − P_R) = 0, so the residual of X' is that of Δ: ‖Δ‖² − ‖L⁻¹ X Δᵀ‖² with L Lᵀ = X Xᵀ. It is solved in
        # the memory of the product, which nothing reads again.
        half = torch.linalg.solve_triangular(basis["factor"], cross.mT, upper=False, out=cross.mT)
        half2 = squared_norm(half)
        far2 = delta2 - half2
        # The error goes with the size of the weights A = Δ X⁺ on rows as long as X's: first a cheap bound on
        # it, then, should that not do, the size itself.
        lengths = before["gram"].diagonal(dim1=-2, dim2=-1)
        last = before["sigma"].gather(-1, (before["rank"] - 1).unsqueeze(-1)).squeeze(-1)
        size = (half2 * lengths.amax(-1)).sqrt() / last
        error2 = GRAM_ERROR * (size + delta2.sqrt()).square()
        if bool((error2 > 2 * ACCURACY * far2).any()):
            weights = torch.linalg.solve_triangular(basis["factor"].mT, half, upper=True)
            size = (weights.square().sum(-1) * lengths).sum(-1).sqrt()
            error2 = GRAM_ERROR * (size + delta2.sqrt()).square()
        return torch.zeros_like(far2), far2, (torch.zeros_like(far2), error2)
    return eigen_residuals(before, basis["vectors"], after, cross, delta2)


def eigen_residuals(before, vectors, after, cross, delta2):
    """``residuals`` where X lacks rank on its near side: what its tail holds counts as outside as well."""
    sigma, rank = before["sigma"], before["rank"].unsqueeze(-1)
    order = torch.arange(sigma.shape[-1], device=sigma.device)
    kept = order < rank
    lam = sigma.square()
    safe = torch.where(kept, lam, torch.ones_like(lam))
    image = cross @ vectors
    power = image.square().sum(-2) / safe * kept
    along = (image * vectors).sum(-2)
    # ‖X'(I−P)‖² = ‖Δ‖² − ‖Δ V‖² + 2⟨Δ, X (I−P)⟩ + ‖X (I−P)‖², each from Δ Xᵀ and the eigenvectors of X Xᵀ.
    far2 = delta2 - power.sum(-1) + (2 * along * ~kept).sum(-1) + (lam * ~kept).sum(-1)
    mixed = (vectors * (~kept).unsqueeze(-2)).mT @ whole_rows(after)
    near2 = squared_norm(mixed)
    # Eigenvectors on the two sides of the cut are mixed by about error / gap; a closed gap is an SVD's
    # business.
    top = lam[..., :1]
    following = (lam * ~kept).amax(-1, keepdim=True)
    angle = GRAM_ERROR * top / (safe - following).clamp_min(1e-300) * kept
    # Squared parts of X' along each kept direction, on either side: those are what the mixing leaks.
    far_part = power + 2 * along * kept + lam * kept
    near_part = ((after["gram"] @ vectors) * vectors).sum(-2)
    far_leak = (angle.square() * far_part.clamp_min(0)).sum(-1).sqrt()
    near_leak = (angle.square() * near_part.clamp_min(0)).sum(-1).sqrt()
    size = (power / safe).sum(-1).sqrt() * top.squeeze(-1).sqrt()
    tail = GRAM_ERROR * top.squeeze(-1) * (~kept).any(-1)
    far_leak = far_leak * (far2.clamp_min(0).sqrt() * 2 + far_leak)
    far_error = GRAM_ERROR * (size + delta2.sqrt()).square() + tail + far_leak
    near_error = near_leak * (near2.sqrt() * 2 + near_leak)
    return near2, far2, (near_error, far_error)


def whole_rows(state):
    """``[*batch, near, far]``: all of a decomposed state in float64."""
    rows = to_float64(state["states"], state["mask"])
    return rows if state["wide"] else rows.mT


def project_by_svd(before, after, near, far, chosen):
    """The two residual norms with those of the chosen matrices computed from a float64 SVD, explicitly."""
    shape = near.shape
    rows, others = whole_rows(before), whole_rows(after)
    rows, others = (x.reshape((-1,) + x.shape[-2:]) for x in (rows, others))
    near, far = near.reshape(-1).clone(), far.reshape(-1).clone()
    ranks = before["rank"].reshape(-1).tolist()
    for i in chosen.reshape(-1).nonzero().flatten().tolist():
        u, _, vh = torch.linalg.svd(rows[i], full_matrices=False)
        u, vh = u[:, : ranks[i]], vh[: ranks[i]]
        left = others[i] - u @ (u.mT @ others[i])
        right = others[i] - (others[i] @ vh.mT) @ vh
        near[i] = (left - u @ (u.mT @ left)).norm()
        far[i] = (right - (right @ vh.mT) @ vh).norm()
    return near.reshape(shape), far.reshape(shape)


def tokens(states, mask):
    """The part of a decomposition that ``mixing_entropy`` needs, without the spectrum."""
    return {"wide": True, "gram": gram(states, mask, True), "n_real": count_rows(states, mask)}


def mixing_entropy(state, mask, power, normalise, last):
    """Token-mixing entropy of a decomposed state, in nats or, normalised, as a share of ln S;
    ``[*batch]``."""
    square = state["gram"] if state["wide"] else gram(state["states"], mask, True)
    norms = square.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = torch.where(norms > 0, 1 / norms.clamp_min(1e-300), torch.zeros_like(norms))
    n_pos = square.shape[-1]
    row_scale = scale
    if last:
        # The last real row, wherever the padding is.
        position = torch.arange(n_pos, device=square.device).expand(norms.shape)
        place = position.amax(-1) if mask is None else torch.where(mask, position, -1).amax(-1)
        index = place.unsqueeze(-1)
        square = square.gather(-2, index.unsqueeze(-1).expand(index.shape + (n_pos,)))
        row_scale = scale.gather(-1, index)
    step = square.shape[-2] if square.is_cuda else ROWS
    found = []
    for start in range(0, square.shape[-2], step):
        some = slice(start, start + step)
        weights = square[..., some, :] * row_scale[..., some].unsqueeze(-1)
        # (cos + 1) / 2, but for the half, which the normalisation takes out again.
        weights.mul_(scale.unsqueeze(-2)).clamp_(-1, 1).add_(1)
        if power != 1:
            weights.pow_(power)
        if mask is not None:
            weights.mul_(mask.unsqueeze(-2))
        total = weights.sum(-1)
        # -Σ p ln p with p = w / Σw, without ever forming p.
        found.append(total.log() - (weights * weights.clamp_min(1e-300).log()).sum(-1) / total)
    entropy = torch.cat(found, -1)
    n_real = state["n_real"]
    if last:
        value = entropy.squeeze(-1)
    elif mask is None:
        value = entropy.mean(-1)
    else:
        value = torch.where(mask, entropy, torch.zeros_like(entropy)).sum(-1) / n_real
    if normalise:
        value = value / n_real.clamp_min(2).to(torch.float64).log()
    return value.clamp_min(0)


def discrepancy(before, basis, after, moved=None):
    """ΔS, ΔD and RID of one update, with the column and the row term; a dict of ``[*batch]`` tensors.

    The arguments are those of ``innovation``.
    """
    smaller = before["n_real"].clamp_max(before["states"].shape[-1])
    delta_s = (effective_rank(after["sigma"]) - effective_rank(before["sigma"])).abs() / smaller
    column, row = innovation(before, basis, after, moved)
    delta_d = (column + row) / 2
    return {
        "delta_s": delta_s,
        "column_innovation": column,
        "row_innovation": row,
        "delta_d": delta_d,
        "rid": delta_s + delta_d,
    }


def prepared_state(states, mask, tol, is_before, mixing):
    """A state of a stream with all that its updates need of it; ``is_before`` where one is judged against it."""
    state = decompose(states, mask, tol)
    return {
        "state": state,
        "basis": support(state) if is_before else None,
        "entropy": mixing_entropy(state, mask, *mixing),
    }


def stream_metrics(states, mask, tol, layer_input, power, normalise, last, run=map):
    """The metrics of each update along a stream X_0 … X_n, every state decomposed once; ``[update, *batch]``
    each.

    ``layer_input`` False: an update is judged against the state it was added to. True: the updates come in
    pairs (attention, then FFN) and both are judged against the state before the pair; MixIG stays that of the
    update. ``run`` is a ``map`` that gives its results in order, and may be at work on the next ones meanwhile.
    """
    count = len(states)
    # judge[u] is the state that update u, which ends in state u + 1, is judged against.
    judge = [u - 1 if layer_input and u % 2 == 1 else u for u in range(count - 1)]
    is_before = [i in judge for i in range(count)]
    mixing = (power, normalise, last)
    ready = run(prepared_state, states, [mask] * count, [tol] * count, is_before, [mixing] * count)
    moves = run(change, [states[i] for i in judge], states[1:], [mask] * (count - 1))
    known, found = {}, []
    for i, new in enumerate(ready):
        known[i] = new
        if i > 0:
            before = known[judge[i - 1]]
            update = discrepancy(before["state"], before["basis"], new["state"], next(moves))
            update["mixig"] = new["entropy"] - known[i - 1]["entropy"]
            found.append(update)
        known.pop(i - 2, None)
    return {name: torch.stack([update[name] for update in found]) for name in found[0]}


def masked_pattern(pattern, keys, mask):
    """The pattern in float64 with zeros at the keys left out, at padded keys and in the rows of padded
    queries."""
    weights = pattern.detach().to(torch.float64)
    zero = torch.zeros((), dtype=weights.dtype, device=weights.device)
    if mask is not None:
        queries = mask[..., mask.shape[-1] - pattern.shape[-2] :]
        weights = torch.where((queries.unsqueeze(-1) & mask.unsqueeze(-2)).unsqueeze(-3), weights, zero)
    if keys is not None:
        weights = torch.where(keys.unsqueeze(-2).unsqueeze(-2), weights, zero)
    return weights


def attention_entropy(weights):
    """The entropy in nats of each row of weights once it sums to one; 0 for a row of zeros."""
    total = weights.sum(-1, keepdim=True)
    p = weights / torch.where(total > 0, total, torch.ones_like(total))
    return -torch.special.xlogy(p, p).sum(-1)


def first_keys(pattern, mask, k):
    """``[*batch, key]``: the first k real keys."""
    if mask is None:
        shape = pattern.shape[:-3] + pattern.shape[-1:]
        return (torch.arange(shape[-1], device=pattern.device) < k).expand(shape)
    return mask & (mask.cumsum(-1) <= k)


def attention_received(weights, mask, causal):
    """``[*batch, head, key]``: the mean weight that each key gets from the real queries that may see it."""
    n_query, n_key = weights.shape[-2], weights.shape[-1]
    place = torch.arange(n_key - n_query, n_key, device=weights.device)
    sees = place.unsqueeze(-1) >= torch.arange(n_key, device=weights.device)
    sees = sees | (not causal)
    if mask is not None:
        sees = sees & (mask[..., n_key - n_query :].unsqueeze(-1) & mask.unsqueeze(-2)).unsqueeze(-3)
    return (weights * sees).sum(-2) / sees.sum(-2).clamp_min(1)

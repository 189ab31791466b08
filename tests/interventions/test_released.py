"""The released settings against a re-implementation, from the description, in a bare model's eager attention.

It edits scores (q·k·scale, before mask and softmax) of the last query row only, at the columns of the visual tokens,
at the prefill and at every decoding step: ``new = (1 - λ) old + λ prior |mean(scores)| / (2 |mean(prior)|)``, in heads
whose mean score on the non-visual columns lies between two percentiles over the heads.
"""

from __future__ import annotations

import hashlib

import bounds
import edit_reference as reference
import numpy as np
import pytest
import torch
from torch import Tensor
from vision_priors import PRIORS

import lostattn as la
from lostattn.interventions.complexity import prompt_complexity

pytestmark = pytest.mark.slow


def dirichlet(prompt, item: int, seed: int, step: int) -> Tensor:
    """One draw over an item's visual tokens for a whole call, from the item's identity and the step."""
    digest = hashlib.sha256("\x1f".join(map(repr, (seed, prompt.ids[item], "dirichlet"))).encode()).digest()
    generator = torch.Generator().manual_seed((int.from_bytes(digest[:8], "little") >> 2) + step)
    waiting = -torch.rand(int(prompt.token_map["image"][item].sum()), generator=generator).log()
    return waiting / waiting.sum()


def priors_of(pair, prompt, prior: str, seed: int, step: int) -> list[Tensor]:
    image = prompt.token_map["image"]
    if prior == "gaussian_noise":
        return [dirichlet(prompt, b, seed, step) for b in range(len(prompt))]
    if prior == "image_complexity":
        values = prompt_complexity(prompt)
    else:
        values = torch.zeros(image.shape)
        values[image] = PRIORS[pair.model.name](pair.hf, prompt, pair.model.architecture.vision.n_read - 1)
    return [values[b][image[b]] for b in range(len(prompt))]


def released(pair, prompt, prior="gaussian_noise", mix=1.0, percentiles=(0.3, 0.9), seed=0, layers=range(6)):
    """``scores(rows, layer)`` for the reference; every row that was a last row once is edited as it was then."""
    chosen: list[int] = []
    known: dict[int, list[Tensor]] = {}

    def scores(rows: Tensor, layer: int) -> Tensor:
        if layer not in layers:
            return rows
        rows = rows.clone()
        n = prompt.n_pos
        for step in range(rows.shape[2] - n + 1):
            here = n - 1 + step
            if step not in known:
                same = step > 0 and prior != "gaussian_noise"
                known[step] = known[0] if same else priors_of(pair, prompt, prior, seed, step)
            for b, values in enumerate(known[step]):
                image = torch.zeros(rows.shape[-1], dtype=torch.bool)
                image[:n] = prompt.token_map["image"][b]
                text = torch.zeros_like(image)
                text[:n] = prompt.token_map["text"][b]
                text[n : here + 1] = True
                row = rows[b, :, here]
                means = row[:, text].double().mean(-1).numpy()
                low, high = np.quantile(means, percentiles)
                for head in range(len(row)):
                    if low <= means[head] <= high:
                        old = row[head, image]
                        aligned = values * old.mean().abs() / (2 * values.mean().abs())
                        rows[b, head, here, image] = (1 - mix) * old + mix * aligned
                        chosen.append(head)
        return rows

    return scores, chosen


CASES = [
    {},
    {"seed": 7},
    {"mix": 0.4},
    {"prior": "vision_encoder"},
    {"prior": "image_complexity", "percentiles": (0.1, 0.6)},
    {"prior": "image_complexity", "percentiles": (0.0, 1.0), "layers": [1, 3, 4]},
]


@pytest.mark.parametrize("which", ["prompt", "batch"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_prefill(pair, case, which):
    prompt = getattr(pair, which)
    scores, chosen = released(pair, prompt, **case)
    want = reference.logits(pair.hf, prompt, scores=scores)[:, -1]
    got = pair.model.run_with_hooks(prompt, interventions=la.Released(**case))[:, -1]
    bounds.close(got, want, pair.share)
    assert bounds.moved(got, pair.model(prompt)[:, -1], pair.share)
    share = len(chosen) / (8 * len(prompt) * len(case.get("layers", range(6))))
    assert share == 1 if case.get("percentiles") == (0.0, 1.0) else 0.2 < share < 0.8


@pytest.mark.parametrize("which", ["prompt", "batch"])
@pytest.mark.parametrize("case", CASES[1:5], ids=str)
def test_every_decoding_step(pair, case, which):
    prompt = getattr(pair, which)
    scores, _ = released(pair, prompt, **case)
    tokens, want = reference.loop(pair.hf, prompt, 3, scores=scores)
    got = reference.generated(pair.model, prompt, la.Released(**case), tokens)
    bounds.close(got, want, pair.share)
    untouched = reference.generated(pair.model, prompt, None, tokens)
    assert all(bounds.moved(got[:, step], untouched[:, step], pair.share) for step in range(tokens.shape[1]))


def test_only_the_last_row_of_scores_changes(pair):
    name = "blocks.2.attn.hook_attn_scores"
    _, plain = pair.model.run_with_cache(pair.prompt, name, la.KnockOut("last", "last", layers=2))
    _, edited = pair.model.run_with_cache(
        pair.prompt, name, la.KnockOut("last", "last", layers=2) + la.Released(layers=2)
    )
    a, b = plain[name], edited[name]
    image = pair.prompt.token_map["image"][0]
    assert torch.equal(a[:, :, :-1], b[:, :, :-1])
    assert torch.equal(a[:, :, -1][..., ~image], b[:, :, -1][..., ~image])
    changed = (a != b)[0, :, -1].any(-1)
    assert 1 < int(changed.sum()) < 8


def test_any_source_may_be_the_prior(pair):
    n = int(pair.prompt.token_map["image"].sum())
    ones = la.Released(la.Fixed(torch.ones(n)), percentiles=(0.0, 1.0))
    uniform = la.Released(la.Uniform(), percentiles=(0.0, 1.0))
    run = pair.model.run_with_hooks
    bounds.close(run(pair.prompt, interventions=ones), run(pair.prompt, interventions=uniform), pair.share)

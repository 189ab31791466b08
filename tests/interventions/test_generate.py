"""Every kind of intervention at every step of ``generate``, against a loop over a bare eager model without a cache.

The loop runs the whole sequence again for each token. Row ``n - 1 + s`` of it was the last row at step ``s``, so an
edit of ``"last"`` is an edit of all rows from ``n - 1`` on, each as it was at its own step.
"""

from __future__ import annotations

from contextlib import ExitStack

import bounds
import edit_reference as reference
import pytest
import torch
from edit_reference import module_of
from torch import Tensor
from vision_priors import PRIORS

import lostattn as la
from lostattn.interventions.complexity import prompt_complexity
from lostattn.interventions.projection import EarlyProjection
from lostattn.plan.setting import stable_seed

pytestmark = pytest.mark.slow

N_NEW = 3


def columns(prompt, spec, n_keys: int, generated: bool) -> Tensor:
    """A choice of keys on a longer sequence: ``[batch, 1, 1, key]``."""
    own = prompt.token_map[spec]
    more = torch.full((len(own), n_keys - own.shape[1]), generated)
    return torch.cat([own, more], 1)[:, None, None]


def rows_of_steps(x: Tensor, n: int, steps=(0, None)) -> Tensor:
    """The rows that were last rows at these steps: ``[1, 1, query, 1]``."""
    step = torch.arange(x.shape[2]) - (n - 1)
    chosen = (step >= steps[0]) & (step < (x.shape[2] if steps[1] is None else steps[1])) & (step >= 0)
    return chosen[None, None, :, None]


def shared(pattern: Tensor, cells: Tensor, values: Tensor) -> Tensor:
    cells = cells & (pattern > 0)
    new = values * cells
    new = new / new.sum(-1, keepdim=True).clamp_min(1e-20) * (pattern * cells).sum(-1, keepdim=True)
    return torch.where(cells, new, pattern)


def compare(pair, prompt, edit, scores=None, weights=None, every_step=True) -> None:
    tokens, want = reference.loop(pair.hf, prompt, N_NEW, scores=scores, weights=weights)
    got = reference.generated(pair.model, prompt, edit, tokens)
    bounds.close(got, want, pair.share)
    plain = reference.generated(pair.model, prompt, None, tokens)
    moved = [bounds.moved(got[:, step], plain[:, step], pair.share) for step in range(N_NEW)]
    assert all(moved) if every_step else any(moved)


@pytest.fixture
def prompt(pair):
    """Four items, of which the longest has no padding."""
    return pair.batch


def test_the_untouched_model_is_the_loop(pair, prompt):
    tokens, want = reference.loop(pair.hf, prompt, N_NEW)
    bounds.close(reference.generated(pair.model, prompt, None, tokens), want, pair.share)
    bounds.close(reference.generated(pair.model, prompt, la.Composition(()), tokens), want, pair.share)


def test_uniform(pair, prompt):
    def weights(pattern, layer):
        cells = columns(prompt, "image", pattern.shape[-1], False) & rows_of_steps(pattern, prompt.n_pos)
        return shared(pattern, cells, torch.ones_like(pattern))

    compare(pair, prompt, la.ReplaceAttention(la.Uniform()), weights=weights)


def test_generated_tokens_are_text(pair, prompt):
    def weights(pattern, layer):
        if layer != 3:
            return pattern
        cells = columns(prompt, "text", pattern.shape[-1], True) & rows_of_steps(pattern, prompt.n_pos)
        return shared(pattern, cells, torch.ones_like(pattern))

    compare(pair, prompt, la.ReplaceAttention(la.Uniform(), keys="text", layers=3), weights=weights)


@pytest.mark.parametrize(
    ("steps", "span"),
    [("prefill", (0, 1)), ("decode", (1, None)), ((2, 3), (2, 3)), ((0, 2), (0, 2)), (slice(2), (0, 2))],
    ids=str,
)
def test_steps(pair, prompt, steps, span):
    def weights(pattern, layer):
        cells = columns(prompt, "image", pattern.shape[-1], False) & rows_of_steps(pattern, prompt.n_pos, span)
        return shared(pattern, cells, torch.ones_like(pattern))

    compare(pair, prompt, la.ReplaceAttention(la.Uniform(), steps=steps), weights=weights, every_step=False)


def test_scores_of_fixed_values(pair):
    prompt = pair.prompt
    image = prompt.token_map["image"][0]
    values = torch.rand(int(image.sum()), generator=torch.Generator().manual_seed(5))
    unit = (values - values.mean()) / values.std(correction=0)

    def scores(rows, layer):
        rows, n = rows.clone(), prompt.n_pos
        for r in range(n - 1, rows.shape[2]):
            old = rows[0, :, r, :n][:, image]
            spread = old.std(-1, correction=0, keepdim=True)
            rows[0, :, r, :n] = rows[0, :, r, :n].masked_scatter(
                image.expand(len(old), n), old.mean(-1, keepdim=True) + spread * unit
            )
        return rows

    compare(pair, prompt, la.ReplaceAttention(la.Fixed(values), space="scores"), scores=scores)


@pytest.mark.parametrize("source", ["vision", "complexity"])
def test_priors_of_the_picture(pair, prompt, source):
    if source == "complexity":
        laid, edit = prompt_complexity(prompt), la.ReplaceAttention(la.Complexity())
    else:
        laid, edit = torch.zeros(len(prompt), prompt.n_pos), la.ReplaceAttention(la.VisionPrior(layer=1))
        laid[prompt.token_map["image"]] = PRIORS[pair.model.name](pair.hf, prompt, 1)

    def weights(pattern, layer):
        values = torch.nn.functional.pad(laid, (0, pattern.shape[-1] - prompt.n_pos))[:, None, None]
        cells = columns(prompt, "image", pattern.shape[-1], False) & rows_of_steps(pattern, prompt.n_pos)
        return shared(pattern, cells, values)

    compare(pair, prompt, edit, weights=weights)


def test_gaussian_draws_anew_at_each_step(pair):
    prompt, n = pair.prompt, pair.prompt.n_pos
    image = prompt.token_map["image"][0]

    def weights(pattern, layer):
        pattern = pattern.clone()
        for r in range(n - 1, pattern.shape[2]):
            seed = stable_seed(6, prompt.ids[0], "gaussian", layer) + r - (n - 1)
            noise = torch.randn((8, 1, int(image.sum())), generator=torch.Generator().manual_seed(seed))[:, 0]
            old = pattern[0, :, r, :n][:, image]
            new = old.mean(-1, keepdim=True) + old.std(-1, correction=0, keepdim=True) * noise
            new = new.clamp_min(0)
            new = new / new.sum(-1, keepdim=True) * old.sum(-1, keepdim=True)
            pattern[0, :, r, :n] = pattern[0, :, r, :n].masked_scatter(image.expand(8, n), new)
        return pattern

    compare(pair, prompt, la.ReplaceAttention(la.Gaussian(seed=6)), weights=weights)


def test_knock_out(pair, prompt):
    def scores(rows, layer):
        cells = columns(prompt, "image", rows.shape[-1], False) & rows_of_steps(rows, prompt.n_pos)
        return rows.masked_fill(cells, -torch.inf)

    compare(pair, prompt, la.KnockOut("last", "image"), scores=scores)


def test_knock_out_of_the_prompts_own_rows_is_felt_at_every_step(pair, prompt):
    def scores(rows, layer):
        chosen = columns(prompt, "question", rows.shape[2], False).transpose(2, 3)
        return rows.masked_fill(chosen & columns(prompt, "image", rows.shape[-1], False), -torch.inf)

    compare(pair, prompt, la.KnockOut("question", "image"), scores=scores)


def test_scaled_for_all_text_rows(pair, prompt):
    def weights(pattern, layer):
        chosen = columns(prompt, "text", pattern.shape[2], True).transpose(2, 3)
        cells = chosen & columns(prompt, "image", pattern.shape[-1], False)
        return torch.where(cells, pattern * 0.25, pattern) if layer in (0, 5) else pattern

    compare(pair, prompt, la.ScaleAttention(0.25, queries="text", layers=[0, -1]), weights=weights)


def test_a_pattern_of_another_pass_acts_at_the_prefill(pair):
    prompt, n = pair.prompt, pair.prompt.n_pos
    image = prompt.token_map["image"][0]
    kept = {i: torch.rand(1, 8, n, n, generator=torch.Generator().manual_seed(i)) for i in range(6)}

    def weights(pattern, layer):
        pattern = pattern.clone()
        old = pattern[0, :, n - 1, :n][:, image]
        new = kept[layer][0, :, n - 1][:, image]
        new = new / new.sum(-1, keepdim=True) * old.sum(-1, keepdim=True)
        pattern[0, :, n - 1, :n] = pattern[0, :, n - 1, :n].masked_scatter(image.expand(8, n), new)
        return pattern

    edit = la.ReplaceAttention(la.FromCache(kept))
    compare(pair, prompt, edit, weights=weights, every_step=False)


def hooked_loop(pair, prompt, changes: dict, scores=None) -> tuple[Tensor, Tensor]:
    """The loop with the outputs of modules changed: ``changes[(layer, what)](value)``."""
    with ExitStack() as stack:
        for (layer, what), change in changes.items():
            module, port = module_of(pair.hf, layer, what)
            assert port == "output"

            def after(_, args, out, change=change):
                return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

            handle = module.register_forward_hook(after)
            stack.callback(handle.remove)
        return reference.loop(pair.hf, prompt, N_NEW, scores=scores)


def prompt_mean(prompt, spec, generated: bool, prefill: bool = True):
    """Rows become the mean of the prompt's real rows, as they were at that point."""

    def change(x: Tensor) -> Tensor:
        n, out = prompt.n_pos, x.clone()
        for b in range(len(x)):
            mean = x[b, :n][prompt.token_map["all"][b]].mean(0)
            if prefill:
                out[b, :n][prompt.token_map[spec][b]] = mean
            if generated:
                out[b, n:] = mean
        return out

    return change


@pytest.mark.parametrize("what", ["attn", "mlp", "resid"])
@pytest.mark.parametrize(("positions", "generated"), [("last", True), ("image", False)])
def test_the_mean_at_decoding_steps_is_the_prompts(pair, prompt, what, positions, generated):
    edit = la.Ablate(what, layers=2, to="mean", positions=positions)
    tokens, want = hooked_loop(pair, prompt, {(2, what): prompt_mean(prompt, positions, generated)})
    bounds.close(reference.generated(pair.model, prompt, edit, tokens), want, pair.share)


def test_the_mean_from_the_first_decoding_step_on(pair, prompt):
    edit = la.Ablate("mlp", layers=[2, 4], to="mean", steps="decode")
    change = prompt_mean(prompt, "all", generated=True, prefill=False)
    tokens, want = hooked_loop(pair, prompt, {(2, "mlp"): change, (4, "mlp"): change})
    got = reference.generated(pair.model, prompt, edit, tokens)
    bounds.close(got, want, pair.share)
    untouched = reference.generated(pair.model, prompt, None, tokens)
    bounds.close(got[:, 0], untouched[:, 0], pair.share)
    assert all(bounds.moved(got[:, step], untouched[:, step], pair.share) for step in range(1, N_NEW))


def test_noise_in_place_of_an_update(pair, prompt):
    def change(x: Tensor) -> Tensor:
        n, out = prompt.n_pos, x.clone()
        for b in range(len(x)):
            seed = stable_seed(3, prompt.ids[b], "noise", "attn", 2)
            real = prompt.token_map["all"][b]
            spans = [(torch.cat([real, torch.zeros(x.shape[1] - n, dtype=torch.bool)]), seed)]
            spans += [(torch.arange(x.shape[1]) == n - 1 + s, seed + s) for s in range(1, x.shape[1] - n + 1)]
            for rows, own in spans:
                noise = torch.randn(x[b, rows].shape, generator=torch.Generator().manual_seed(own))
                out[b, rows] = noise * x[b, rows].std(correction=0) + x[b, rows].mean()
        return out

    tokens, want = hooked_loop(pair, prompt, {(2, "attn"): change})
    edit = la.NoiseUpdate("attn", layers=2, seed=3)
    bounds.close(reference.generated(pair.model, prompt, edit, tokens), want, pair.share)


def test_a_sum_of_them(pair, prompt):
    def scores(rows, layer):
        if layer != 1:
            return rows
        cells = columns(prompt, "image", rows.shape[-1], False) & rows_of_steps(rows, prompt.n_pos)
        return rows.masked_fill(cells, -torch.inf)

    changes = {(2, "mlp"): lambda x: x * 0, (4, "attn"): prompt_mean(prompt, "last", True)}
    tokens, want = hooked_loop(pair, prompt, changes, scores=scores)
    edit = (
        la.KnockOut("last", "image", layers=1)
        + la.Ablate("mlp", layers=2)
        + la.Ablate("attn", layers=4, to="mean", positions="last")
    )
    bounds.close(reference.generated(pair.model, prompt, edit, tokens), want, pair.share)


def test_two_means_in_one_sum_remember_apart(pair):
    # The second mean is over rows that the zeros have changed already; the first must not take it for its own.
    edit = (
        la.Ablate("mlp", layers=2, to="mean", positions="last")
        + la.Ablate("mlp", layers=2, to="zero", positions="image")
        + la.Ablate("mlp", layers=2, to="mean", positions=0)
    )
    n, image = pair.prompt.n_pos, pair.prompt.token_map["image"][0]

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[0, n - 1 :] = x[0, :n].mean(0)
        x[0, :n][image] = 0
        x[0, 0] = x[0, :n].mean(0)
        return x

    tokens, want = hooked_loop(pair, pair.prompt, {(2, "mlp"): change})
    bounds.close(reference.generated(pair.model, pair.prompt, edit, tokens), want, pair.share)


def test_dirichlet_draws_anew_at_each_step(pair):
    prompt, n = pair.prompt, pair.prompt.n_pos
    image = prompt.token_map["image"][0]

    def weights(pattern, layer):
        if layer != 4:
            return pattern
        pattern = pattern.clone()
        for r in range(n - 1, pattern.shape[2]):
            generator = torch.Generator().manual_seed(stable_seed(7, prompt.ids[0], "dirichlet", layer) + r - (n - 1))
            waiting = -torch.rand((8, 1, int(image.sum())), generator=generator)[:, 0].log()
            old = pattern[0, :, r, :n][:, image]
            new = waiting / waiting.sum(-1, keepdim=True) * old.sum(-1, keepdim=True)
            pattern[0, :, r, :n] = pattern[0, :, r, :n].masked_scatter(image.expand(8, n), new)
        return pattern

    compare(pair, prompt, la.ReplaceAttention(la.Dirichlet(seed=7), layers=4), weights=weights)


def test_rows_of_the_prompt_are_drawn_anew_at_each_step(pair, prompt):
    def change(x: Tensor) -> Tensor:
        n, out = prompt.n_pos, x.clone()
        for b in range(len(x)):
            real = prompt.token_map["all"][b]
            pool, seed = x[b, :n][real], stable_seed(3, prompt.ids[b], "resample", 2)
            for step in range(x.shape[1] - n + 1):
                generator = torch.Generator().manual_seed(seed + step)
                picks = torch.randint(len(pool), (int(real.sum()) if step == 0 else 1,), generator=generator)
                if step == 0:
                    out[b, :n][real] = pool[picks]
                else:
                    out[b, n - 1 + step] = pool[picks[0]]
        return out

    tokens, want = hooked_loop(pair, prompt, {(2, "mlp"): change})
    got = reference.generated(pair.model, prompt, la.Ablate("mlp", layers=2, to="resample", seed=3), tokens)
    bounds.close(got, want, pair.share)


def test_a_patch_acts_on_the_prompt_and_is_felt_at_every_step(pair, prompt):
    image = prompt.token_map["image"]
    _, other = pair.model.run_with_cache(prompt, "blocks.1.hook_resid_post", la.Ablate("attn", layers=[0, 1]))

    def change(x: Tensor) -> Tensor:
        out = x.clone()
        out[:, : prompt.n_pos][image] = other["resid_post", 1][image]
        return out

    tokens, want = hooked_loop(pair, prompt, {(1, "resid"): change})
    edit = la.Patch.of(other, "resid_post", layers=1, positions="image")
    got = reference.generated(pair.model, prompt, edit, tokens)
    bounds.close(got, want, pair.share)
    assert bounds.moved(got, reference.generated(pair.model, prompt, None, tokens), pair.share)


def test_no_rotation_at_the_prompt_alone(pair):
    """The prompt's rows meet keys without rotation; the KV cache holds the rotated ones, which later rows meet."""
    prompt, n = pair.prompt, pair.prompt.n_pos
    raw: dict[tuple[int, str], Tensor] = {}

    def scores(rows, layer):
        query, key = (raw[layer, letter].unflatten(-1, (-1, 16)).transpose(1, 2) for letter in "qk")
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        own = (query @ key.transpose(2, 3) * 16**-0.5)[:, :, :n, :n]
        rows = rows.clone()
        rows[:, :, :n, :n] = own.masked_fill(rows[:, :, :n, :n] == -torch.inf, -torch.inf)
        return rows

    with ExitStack() as stack:
        for layer, block in enumerate(pair.hf.model.language_model.layers):
            for letter in "qk":
                module = getattr(block.self_attn, f"{letter}_proj")

                def seen(_, args, out, at=(layer, letter)):
                    raw[at] = out

                stack.callback(module.register_forward_hook(seen).remove)
        compare(pair, prompt, la.RemoveRotary(), scores=scores)


def test_what_the_projector_reads_is_changed_for_a_whole_generation(pair, prompt):
    edit = EarlyProjection(1)
    tokens = pair.model.generate(prompt, edit, max_new_tokens=N_NEW, eos_token_id=-1).tokens
    got = reference.generated(pair.model, prompt, edit, tokens)
    for step in range(N_NEW):
        longer = pair.model.prompt(inputs=reference.extended(prompt.inputs, tokens[:, :step]))
        single = pair.model.run_with_hooks(longer, interventions=edit)[:, -1]
        bounds.close(got[:, step], single, pair.share)
        assert torch.equal(single.argmax(-1), tokens[:, step])
    assert bounds.moved(got, reference.generated(pair.model, prompt, None, tokens), pair.share)

"""The workloads: for each, the contenders and the baseline that they are measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import lostattn as la
from benchmarks import peers, subjects
from benchmarks.timing import Ratio, race
from lostattn.bridge import to_transformer_bridge

RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")


def caching(side: int, rounds: int) -> list[Ratio]:
    """The residual points of all layers: what instrumentation costs beside the bare forward."""
    import nnsight

    module, given = subjects.llava(side), subjects.inputs(side)
    plain, model = subjects.llava(side), la.load(module, selftest=False)
    prompt = model.prompt(inputs=given)
    bridge = to_transformer_bridge(model)
    wrapped = nnsight.NNsight(subjects.llava(side))
    names = [f"blocks.{i}.{point}" for i in range(model.cfg.n_layers) for point in RESIDUAL]
    # TransformerBridge calls the stream between the updates by the input of the second norm.
    theirs = [name.replace("hook_resid_mid", "ln2.hook_in") for name in names]
    theirs = [n.replace("hook_resid_pre", "hook_in").replace("hook_resid_post", "hook_out") for n in theirs]
    return race(
        {
            "bare sdpa forward": lambda: peers.bare(plain, given),
            "hand-written hooks": lambda: peers.hand_hooks(plain, given),
            "plain nnsight": lambda: peers.plain_nnsight(wrapped, given),
            "lostattn": lambda: model.run_with_cache(prompt, names),
            "TransformerBridge": lambda: peers.bridge_points(bridge, given, theirs),
        },
        "bare sdpa forward",
        rounds,
    )


def patterns(side: int, rounds: int) -> list[Ratio]:
    """Attention patterns of all layers: the last row alone, and whole."""
    model, given = la.load(subjects.llava(side), selftest=False), subjects.inputs(side)
    prompt, plain = model.prompt(inputs=given), subjects.llava(side)
    names = [f"blocks.{i}.attn.hook_pattern" for i in range(model.cfg.n_layers)]
    bridge = to_transformer_bridge(model)

    def last_row() -> list[Any]:
        _, cache = model.run_with_cache(prompt, names)
        return [cache.pattern(i, queries="last") for i in range(model.cfg.n_layers)]

    def whole() -> int:
        _, cache = model.run_with_cache(prompt, names)
        return sum(cache[name].shape[-1] for name in names)

    return race(
        {
            "bare sdpa forward": lambda: peers.bare(plain, given),
            "lostattn, last row": last_row,
            "lostattn, every row, one layer at a time": whole,
            "TransformerBridge": lambda: peers.bridge_points(bridge, given, names),
        },
        "bare sdpa forward",
        rounds,
    )


def replacing(side: int, rounds: int) -> list[Ratio]:
    """ReplaceAttention in every layer at the last row, beside the same edit of the eager softmax."""
    model, given = la.load(subjects.llava(side), selftest=False), subjects.inputs(side)
    prompt, plain = model.prompt(inputs=given), subjects.llava(side)
    eager = subjects.llava(side, attn_implementation="eager")
    columns = prompt.token_map["image"][0]
    uniform, noise = la.ReplaceAttention(la.Uniform()), la.ReplaceAttention(la.Gaussian(seed=0))

    def by_hand() -> Any:
        with peers.eager_edit(columns):
            return peers.bare(eager, given)

    ours = model.run_with_cache(prompt, "hook_unembed", uniform)[0][:, -1]
    torch.testing.assert_close(ours, by_hand()[:, -1], rtol=1e-3, atol=1e-4)
    return race(
        {
            "bare sdpa forward": lambda: peers.bare(plain, given),
            "lostattn, uniform": lambda: model.run_with_hooks(prompt, (), uniform),
            "lostattn, Gaussian": lambda: model.run_with_hooks(prompt, (), noise),
            "bare eager forward": lambda: peers.bare(eager, given),
            "eager softmax edited": by_hand,
        },
        "bare sdpa forward",
        rounds,
    )


def generating(side: int, rounds: int, n_tokens: int = 32) -> list[Ratio]:
    """A generation under ReplaceAttention in every layer and step, beside the bare generation."""
    model, given = la.load(subjects.llava(side), selftest=False), subjects.inputs(side)
    prompt, plain = model.prompt(inputs=given), subjects.llava(side)
    edit = la.ReplaceAttention(la.Uniform())
    settings = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens, "do_sample": False}

    @torch.no_grad()
    def untouched() -> Any:
        return plain.generate(**given, **settings)

    return race(
        {
            "bare generate": untouched,
            "lostattn, untouched": lambda: model.generate(prompt, None, n_tokens, min_new_tokens=n_tokens),
            "lostattn, uniform": lambda: model.generate(prompt, edit, n_tokens, min_new_tokens=n_tokens),
        },
        "bare generate",
        rounds,
    )


def metrics(n_pos: int, d_model: int, n_layers: int, rounds: int) -> list[Ratio]:
    """RID and MixIG of a stream, beside full SVDs in float32."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.logspace(0, -2, d_model)
    states = [torch.randn(n_pos, d_model, generator=generator) * spectrum]
    for _ in range(2 * n_layers):
        update = torch.randn(n_pos, d_model, generator=generator) * spectrum.flip(0)
        states.append(states[-1] + 0.1 * update)
    ours = la.metrics.stream_metrics(states)["rid"]
    theirs = torch.tensor([rid for rid, _ in peers.textbook_metrics(states)], dtype=torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
    return race(
        {
            "textbook SVDs, float32": lambda: peers.textbook_metrics(states),
            "lostattn, float64": lambda: la.metrics.stream_metrics(states),
        },
        "textbook SVDs, float32",
        rounds,
    )


WORKLOADS: dict[str, tuple[str, Callable[[int], list[Ratio]]]] = {
    "caching": ("residual points of all layers, 576 visual tokens", lambda r: caching(24, r)),
    "patterns": ("patterns of all layers, 2500 visual tokens", lambda r: patterns(50, max(r // 2, 2))),
    "replace_600": ("ReplaceAttention in all layers, 576 visual tokens", lambda r: replacing(24, r)),
    "replace_2500": ("ReplaceAttention in all layers, 2500 visual tokens", lambda r: replacing(50, max(r // 2, 2))),
    "generate": ("32 tokens under ReplaceAttention, 576 visual tokens", lambda r: generating(24, max(r // 2, 2))),
    "metrics": ("RID and MixIG of 3 layers, states of 620 × 2048", lambda r: metrics(620, 2048, 3, max(r // 2, 2))),
}

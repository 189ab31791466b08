"""The workloads: for each, its contenders, and how often they are raced.

A contender is written down as a function that makes ready and returns the function that is timed, so that a process
which measures the memory of one need not build the others' models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import lostattn as la
from benchmarks import peers, subjects
from benchmarks.subjects import Size
from lostattn.model.bridge import to_transformer_bridge, twin

RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
Run = Callable[[], Any]
Contenders = dict[str, Callable[[], Run]]


@dataclass(frozen=True)
class Workload:
    """What is run, the contenders, how many rounds, and whether a round to warm up comes before them."""

    what: str
    contenders: Callable[[Size], Contenders]
    rounds: int
    warm_up: int = 1
    same: tuple[str, str] | None = None  # contenders that must give the same last row of logits
    by_request: bool = False  # too long for the usual run
    dtype: torch.dtype | None = None  # of the model, where it is not that of the size

    def of(self, size: Size) -> Size:
        """The size that is run where a size is asked for."""
        return size if self.dtype is None else replace(size, dtype=self.dtype)

    def repeats(self, size: Size) -> bool:
        """Whether a model of this size is run in this dtype by the workload that leaves the dtype alone."""
        return self.dtype == size.dtype

    def compare(self, runs: dict[str, Run], size: Size) -> None:
        """What is raced must do the same: refuse contenders of :attr:`same` whose logits differ."""
        if self.same is not None:
            mine, theirs = (runs[name]()[:, -1] for name in self.same)
            loose = {"rtol": 1e-3, "atol": 1e-4} if size.dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
            torch.testing.assert_close(mine, theirs, **loose)


class Subject:
    """A model of some size in the forms that the contenders need, each made when it is first asked for."""

    def __init__(self, side: int, size: Size) -> None:
        self.side, self.size = side, size
        self.given = subjects.inputs(side, size)
        self.columns: Tensor = (self.given["input_ids"] == subjects.IMAGE)[0]

    @cached_property
    def lvlm(self) -> Any:
        return la.load(subjects.llava(self.side, self.size), selftest=False)

    @cached_property
    def prompt(self) -> Any:
        return self.lvlm.prompt(inputs=self.given)

    @cached_property
    def plain(self) -> Any:
        """The untouched Hugging Face model."""
        return subjects.llava(self.side, self.size)

    @cached_property
    def eager(self) -> Any:
        return subjects.llava(self.side, self.size, "eager")

    @cached_property
    def nnsight(self) -> Any:
        import nnsight

        return nnsight.NNsight(twin(self.plain))

    @cached_property
    def bridge(self) -> Any:
        return to_transformer_bridge(self.lvlm)

    def names(self, *points: str) -> list[str]:
        return [f"blocks.{i}.{point}" for i in range(self.size.n_layers) for point in points]

    def bare(self) -> Run:
        model = self.plain
        return lambda: peers.bare(model, self.given)


def caching(side: int, size: Size) -> Contenders:
    """The residual points of all layers: what instrumentation costs beside the bare forward."""
    subject = Subject(side, size)
    names = subject.names(*RESIDUAL)
    # TransformerBridge calls the stream between the updates by the input of the second norm.
    theirs = [name.replace("hook_resid_mid", "ln2.hook_in") for name in names]
    theirs = [n.replace("hook_resid_pre", "hook_in").replace("hook_resid_post", "hook_out") for n in theirs]

    def bridge() -> Run:
        made = subject.bridge
        return lambda: peers.bridge_points(made, subject.given, theirs)

    def nnsight() -> Run:
        made = subject.nnsight
        return lambda: peers.plain_nnsight(made, subject.given)

    def hooks() -> Run:
        made = subject.plain
        return lambda: peers.hand_hooks(made, subject.given)

    def ours() -> Run:
        model, prompt = subject.lvlm, subject.prompt
        return lambda: model.run_with_cache(prompt, names)

    return {
        "bare sdpa forward": subject.bare,
        "hand-written hooks": hooks,
        "plain nnsight": nnsight,
        "lostattn": ours,
        "TransformerBridge": bridge,
    }


def patterns(side: int, size: Size, whole: bool) -> Contenders:
    """Attention patterns of all layers: the last row alone, and (``whole``) every row."""
    subject = Subject(side, size)
    names = subject.names("attn.hook_pattern")

    def last_row() -> Run:
        model, prompt = subject.lvlm, subject.prompt

        def run() -> list[Tensor]:
            _, cache = model.run_with_cache(prompt, names)
            return [cache.pattern(i, queries="last") for i in range(size.n_layers)]

        return run

    def every_row() -> Run:
        model, prompt = subject.lvlm, subject.prompt

        def run() -> int:
            _, cache = model.run_with_cache(prompt, names)
            return sum(cache[name].shape[-1] for name in names)

        return run

    def bridge() -> Run:
        made = subject.bridge
        return lambda: peers.bridge_points(made, subject.given, names)

    ours = {"lostattn, last row": last_row}
    if whole:
        ours["lostattn, every row, one layer at a time"] = every_row
    return {"bare sdpa forward": subject.bare, **ours, "TransformerBridge": bridge}


def replacing(side: int, size: Size, all_peers: bool) -> Contenders:
    """ReplaceAttention in every layer at the last row, beside the same edit written by hand in several ways."""
    subject = Subject(side, size)

    def ours(source: Any) -> Run:
        model, prompt, edit = subject.lvlm, subject.prompt, la.ReplaceAttention(source)
        return lambda: model.run_with_hooks(prompt, (), edit)

    def eager() -> Run:
        made = subject.eager

        def run() -> Tensor:
            with peers.eager_edit(subject.columns):
                return peers.bare(made, subject.given)

        return run

    def by_hand() -> Run:
        made = subject.plain

        def run() -> Tensor:
            with peers.hand_edit(subject.columns):
                return peers.bare(made, subject.given)

        return run

    def bare_eager() -> Run:
        made = subject.eager
        return lambda: peers.bare(made, subject.given)

    def nnsight() -> Run:
        made = subject.nnsight
        return lambda: peers.nnsight_edit(made, subject.given, subject.columns)

    found: Contenders = {
        "bare sdpa forward": subject.bare,
        "lostattn, uniform": lambda: ours(la.Uniform()),
        "lostattn, Gaussian": lambda: ours(la.Gaussian(seed=0)),
        "eager softmax edited": eager,
    }
    more: Contenders = {"by hand around sdpa": by_hand, "plain nnsight": nnsight, "bare eager forward": bare_eager}
    return {**found, **more} if all_peers else found


def generating(side: int, size: Size, n_tokens: int = 32) -> Contenders:
    """A generation under ReplaceAttention in every layer and step, beside the bare generation."""
    subject = Subject(side, size)
    settings = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens, "do_sample": False}

    def bare() -> Run:
        made = subject.plain

        @torch.no_grad()
        def run() -> Tensor:
            return made.generate(**subject.given, **settings)

        return run

    def by_hand() -> Run:
        run = bare()

        def edited() -> Tensor:
            with peers.hand_edit(subject.columns):
                return run()

        return edited

    def ours(edit: Any) -> Run:
        model, prompt = subject.lvlm, subject.prompt
        return lambda: model.generate(prompt, edit, n_tokens, min_new_tokens=n_tokens)

    def nothing() -> Any:
        """An edit that is compiled, and changes nothing at the one step at which it acts."""
        return la.ScaleAttention(1.0, keys="image", steps=(n_tokens - 1, n_tokens))

    return {
        "bare generate": bare,
        "by hand around sdpa": by_hand,
        "lostattn, untouched": lambda: ours(None),
        "lostattn, an edit that never acts": lambda: ours(nothing()),
        "lostattn, uniform": lambda: ours(la.ReplaceAttention(la.Uniform())),
    }


def metrics(n_pos: int, d_model: int, n_layers: int, size: Size) -> Contenders:
    """RID and MixIG of a stream, beside full SVDs in float32."""
    states = subjects.states(n_pos, d_model, n_layers, size.device)
    return {
        "textbook SVDs, float32": lambda: lambda: peers.textbook_metrics(states),
        "lostattn, float64": lambda: lambda: la.metrics.stream_metrics(states),
    }


def sweeping(size: Size, batch_size: int = 32) -> Contenders:
    """Every head of tiny-llava patched at every position, beside as many bare forwards of the same batch."""
    model = la.load("tiny-llava", selftest=False)
    if size.device != "cpu":
        model.hf.to(size.device)
    first, second = la.data.load("shapes", split="test", n=2, seed=0)
    clean = model.prompt(first)
    other = {**clean.inputs, "pixel_values": model.prompt(second).inputs["pixel_values"]}
    corrupted = model.prompt(inputs=other)
    n_passes = -(-model.cfg.n_layers * model.cfg.n_heads * clean.n_pos // batch_size)

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1, 7] - logits[:, -1, 9]

    def sweep() -> Run:
        return lambda: la.patching.sweep(model, clean, corrupted, metric, "z", heads="each", batch_size=batch_size)

    def bare() -> Run:
        plain = twin(model.hf)
        copies = {k: v.to(size.device).repeat_interleave(batch_size, 0) for k, v in corrupted.inputs.items()}

        def run() -> None:
            for _ in range(n_passes):
                peers.bare(plain, copies)

        return run

    return {"bare forwards of the same batch": bare, "lostattn": sweep}


EDITED = ("lostattn, uniform", "eager softmax edited")
WORKLOADS = {
    "caching": Workload("residual points of all layers, 576 visual tokens", lambda s: caching(24, s), 8),
    "patterns_600": Workload("patterns of all layers, 576 visual tokens", lambda s: patterns(24, s, True), 5),
    "patterns_2500": Workload("patterns of all layers, 2500 visual tokens", lambda s: patterns(50, s, False), 5, 0),
    "patterns_2500_bfloat16": Workload(
        "patterns of all layers, 2500 visual tokens, bfloat16, as checkpoints are run",
        lambda s: patterns(50, s, False),
        5,
        dtype=torch.bfloat16,
    ),
    "replace_600": Workload(
        "`ReplaceAttention`, every layer, last row, 576 visual tokens", lambda s: replacing(24, s, True), 7, same=EDITED
    ),
    "replace_2500": Workload(
        "`ReplaceAttention`, every layer, last row, 2500 visual tokens", lambda s: replacing(50, s, False), 5, 0, EDITED
    ),
    "replace_2500_bfloat16": Workload(
        "`ReplaceAttention`, every layer, last row, 2500 visual tokens, bfloat16",
        lambda s: replacing(50, s, False),
        9,
        same=EDITED,
        dtype=torch.bfloat16,
    ),
    "generate": Workload("32 tokens after 576 visual tokens", lambda s: generating(24, s), 6),
    "metrics": Workload("RID and MixIG of 3 layers, states of 620 × 2048", lambda s: metrics(620, 2048, 3, s), 6),
    "metrics_2500": Workload(
        "RID and MixIG of 1 layer, states of 2500 × 4096", lambda s: metrics(2500, 4096, 1, s), 2, 0, by_request=True
    ),
    "sweep": Workload("every head of tiny-llava patched at every position, 32 copies a pass", sweeping, 4),
}

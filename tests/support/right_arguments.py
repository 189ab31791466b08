"""Right arguments for every public callable: a tiny model, two prompts, a cache, a few questions, values by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

# What a server answers, what other tests ask for whole, and what changes the one cache that all calls share.
NEEDLESS = {
    "remote.submit",
    "remote.check",
    "LVLM.to_transformer_bridge",
    "ActivationCache.to_transformer_lens",
    "ActivationCache.remove_batch_dim",
    "metrics.Decomposition",
    "answers.HookedModel",
    "LVLM",
    "reductions.StreamUpdate",
    "experiments.Results.write",  # steps of save, in a folder that is being made
    "view.Page.write_figures",
    "data.check",  # needs the files of a benchmark
}
OF_A_SERVER = ("remote.Job", "remote.Session", "remote.Later", "remote.Service")
# Many passes: for these, an argument is taken where it leads to the first of them.
LONG = (
    "experiments.",
    "patching.sweep",
    "patching.agreement",
    "patching.path_patch",
    "patching.attribute",
    "lenses.input_",
    "lenses.vision_lens",
    "means.collect",
    "means.difference",
    "pools.collect",
    "LVLM.selftest",
    "LVLM.generate",
    "LVLM.measure",
)


def _taken(*_: Any, **__: Any) -> None:
    raise Taken


class Taken(BaseException):
    """The first pass of a call would have begun: its arguments were taken."""


# Values that calls give; nobody makes one by hand, so they are made right and then taken apart.
MADE = (
    "Prompt",
    "TokenMap",
    "gradients.Gradients",
    "means.Means",
    "means.Directions",
    "pools.Pool",
    "lenses.Readout",
    "lenses.ImageAttribution",
    "reductions.InPass",
    "reductions.Sum",
    "reductions.Remembered",
)


class World:
    """What calls are made with. Each value is made once; nothing that is called here changes one."""

    @functools.cached_property
    def model(self) -> Any:
        import lostattn

        return lostattn.load("tiny-llava", selftest=False)

    @functools.cached_property
    def data(self) -> Any:
        import lostattn

        return lostattn.data.load("shapes", split="test", n=24, seed=0)

    @functools.cached_property
    def pair(self) -> Any:
        """Two questions of one text about other pictures."""
        import lostattn

        clean = next(q for q in self.data if len(q.images) == 1 and len(lostattn.data.asked_objects(q)) == 1)
        return clean, lostattn.patching.corrupt(clean)

    @functools.cached_property
    def prompt(self) -> Any:
        return self.model.prompt(self.pair[0])

    @functools.cached_property
    def cache(self) -> Any:
        return self.model.run_with_cache(self.prompt, backward=self.metric)[1]

    @functools.cached_property
    def logits(self) -> Any:
        return self.model(self.prompt)

    @functools.cached_property
    def metric(self) -> Any:
        import lostattn

        return lostattn.answers.metric(self.model, self.pair[0])

    @functools.cached_property
    def generation(self) -> Any:
        return self.model.generate(
            self.prompt, max_new_tokens=2, names_filter=lambda name: name.endswith(("hook_pattern", "resid_post"))
        )

    @functools.cached_property
    def means(self) -> Any:
        import lostattn

        return lostattn.means.collect_means(self.model, self.data, "resid_post", layers=[1], positions="last")

    @functools.cached_property
    def state(self) -> Any:
        return torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    @functools.cached_property
    def pattern(self) -> Any:
        scores = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        return scores.softmax(-1)

    @functools.cached_property
    def said(self) -> Any:
        """What a question was answered with, as a probing keeps it."""
        import lostattn

        row = {"id": self.pair[0].id, "condition": "untouched", "seed": 0, "kind": self.pair[0].kind, "text": "two"}
        table = pd.DataFrame([{**row, "scene": "a", "answer": self.pair[0].answer, "correct": False, "said": "two"}])
        return lostattn.experiments.Results(table.assign(read=None, rule="", unread=True), {})

    def saved(self, what: str) -> Path:
        """A saved cache, means or pool."""
        path = Path(f"saved-{what}.safetensors").absolute()
        made = {"cache": lambda: self.cache, "means": lambda: self.means}.get(
            what, lambda: self._instance("pools.Pool", self._kind("pools.Pool"))
        )
        made().save(path)
        return path

    @functools.cached_property
    def setting(self) -> Any:
        from lostattn.plan import Setting

        keys = (self.prompt.token_map["image"], False)
        return Setting(self.model.sites, self.model.hf, self.prompt, boundary="blocks.1.attn", keys=keys)

    @functools.cached_property
    def picture(self) -> Any:
        return self.pair[0].images[0]

    @functools.cached_property
    def results(self) -> Any:
        import lostattn

        table = pd.DataFrame({"layer": [0, 1, 0, 1], "update": ["attn"] * 4, "rid": [0.1, 0.2, 0.3, 0.4]})
        return lostattn.experiments.Results(table.assign(scene=["a", "a", "b", "b"]), {"by": ["layer"]})

    @contextmanager
    def no_pass(self, name: str) -> Iterator[None]:
        """While this is open, the first pass of a call that makes many raises :class:`Taken` instead."""
        root = self.model.nn
        if name.startswith(LONG):
            vars(root)["trace"] = vars(root)["generate"] = _taken
        try:
            yield
        finally:
            for method in ("trace", "generate"):
                vars(root).pop(method, None)

    def by_name(self) -> dict[str, Any]:
        """Values by a parameter's name, where every callable that has one takes the same."""
        import lostattn as la

        edit = la.KnockOut("last", "image", layers=[1])
        right = self.metric.right
        clean, corrupted = self.pair
        tokens = right.clone()
        return {
            "model": self.model,
            "data": self.data[:2],
            "question": clean,
            "prompt": self.prompt,
            "item": 0,
            "image": 0,
            "clean": self.prompt,
            "corrupted": self.model.prompt(corrupted),
            "metric": self.metric,
            "interventions": edit,
            "cache": self.cache,
            "layer": 1,
            "layers": [1],
            "heads": [0],
            "head": 0,
            "names_filter": "blocks.1.hook_resid_post",
            "names": "blocks.1.hook_resid_post",
            "fwd_hooks": [],
            "dtype": torch.float64,
            "device": "cpu",
            "remote": False,
            "backward": self.metric,
            "max_new_tokens": 1,
            "batch_size": 2,
            "progress": False,
            "seed": 0,
            "seeds": [0],
            "convention": "paper",
            "tol": 1e-6,
            "power": 1.0,
            "normalise": True,
            "rows": "all",
            "queries": "last",
            "keys": "image",
            "positions": "last",
            "position": "last",
            "steps": "all",
            "what": "attn_out",
            "to": "zero",
            "scale": 1.0,
            "factor": 0.5,
            "std": 0.5,
            "mix": 0.5,
            "space": "weights",
            "keep_mass": True,
            "shared": False,
            "points": ["resid_post"],
            "point": "resid_post",
            "reduce": "mean",
            "source": la.Uniform(),
            "values": torch.rand(self.prompt.n_pos),
            "patterns": {1: self.cache["pattern", 1]},
            "setting": self.setting,
            "parts": (edit,),
            "prior": "uniform",
            "percentiles": (0.3, 0.9),
            "vector": torch.ones(self.model.cfg.d_model),
            "pre": self.state,
            "before": self.state,
            "after": self.state + 1,
            "mid": self.state + 2,
            "post": self.state - 1,
            "x": self.state,
            "mask": None,
            "pattern": self.pattern,
            "k": 2,
            "threshold": 0.3,
            "causal": True,
            "states": [self.state, self.state + 1, self.state * 2],
            "logits": self.logits,
            "right": right,
            "wrong": right + 1,
            "kind": "probability",
            "answer": clean.answer,
            "tokens": tokens,
            "title": "a title",
            "incorrect_tokens": tokens + 1,
            "by": "layer",
            "of": "tokens",
            "incl_mid": True,
            "streams": None,
            "picture": self.picture,
            "colour": (9, 9, 9),
            "radius": 1.5,
            "box": (1, 1, 6, 6),
            "border": 2,
            "strength": 8.0,
            "patches": [0, 1],
            "grid": self.prompt.token_map.grids[0][0],
            "how": "blank",
            "which": 0,
            "senders": [("z", 1, 0)],
            "receivers": [("q", 2, 0)],
            "receiver_positions": "last",
            "through_mlps": True,
            "along": "input",
            "controls": ["rope"],
            "conditions": {"none": edit},
            "edges": {"last from image": ("last", "image")},
            "windows": 1,
            "judge": None,
            "path": Path("here"),
            "folder": Path("there"),
            "text": "How many squares?",
            "caption": "a caption",
            "digits": 3,
            "name": "a-name",
            "df": self.results.table,
            "fig": None,
            "rendered": "<p>x</p>",
            "language": "en",
            "alt": "a picture",
            "frames": [self.picture, self.picture],
            "fps": 2.0,
            "seconds": None,
            "positive": self.data[:2],
            "negative": self.data[2:4],
            "size": 8,
            "update": "attn",
            "spec": "image",
            "need": True,
            "images": None,
            "boxes": [(1, 1, 9, 9)],
            "items": [0],
            "columns": slice(0, 3),
            "batch_slice": [0],
            "timeout": 1.0,
            "selftest": False,
            "trust_remote_code": False,
            "attn_implementation": "sdpa",
            "device_map": None,
            "revision": None,
            "processor": None,
            "split": "test",
            "n": 2,
            "kinds": ["count"],
            "protocol": "strict",
            "said": "two",
            "questions": [clean],
            "meta": {},
            "x_": "layer",
            "opacity": 0.5,
            "limits": (0.0, 1.0),
            "marks": [],
            "titles": ["one"],
            "label": "weight",
            "labels": None,
            "query": -1,
            "token": 1,
            "function": la.metrics.effective_rank,
            "key": ("resid_post", 1),
            "items_": [0],
            "chance": 0.5,
        }

    def by_place(self) -> dict[str, Any]:
        """Values by the callable and its parameter, where the name alone does not say what is meant."""
        import lostattn as la
        from lostattn.points.stream_updates import find_update
        from lostattn.view.figures import new_figure

        clean, corrupted = self.pair
        patch = la.Patch.of(self.cache, "resid_post", layers=[1])
        readout = self.cache.logit_lens()
        return {
            "load.model": "tiny-llava",
            "experiments.rescore.results": self.said,
            "experiments.score_table.results": self.said,
            "data.from_table.table": pd.DataFrame({"text": ["How many?"], "answer": ["2"]}),
            "data.from_table.columns": {"text": "text"},
            "data.from_table.folder": None,
            "data.AskedObject.object": la.data.asked_objects(clean)[0].object,
            "Prompt.find.word": "the",
            "data.scoring.scores.said": ["two"],
            "answers.Choices.answers": ("circle", "square"),
            "answers.Choices.tokens": ((5,), (7,)),
            "answers.Choices.right": 0,
            "load.dtype": "float32",
            "data.load.name": "shapes",
            "data.register.kinds": ["a"],
            "data.register.source": lambda split, n, seed, kinds: None,
            "Composition.parts": (la.RemoveRotary(),),
            "Patch.values": patch.values,
            "Patch.layout": patch.layout,
            "Patch.chosen": patch.chosen,
            "Patch.reduce": "none",
            "VisionPrior.layer": -1,
            "Ablate.what": "attn",
            "NoiseUpdate.what": "attn",
            "NoiseWeights.what": "qkv",
            "FromCache.of.layers": [1],
            "LVLM.measure.metrics": ["probability"],
            "answers.metric.wrong": None,
            "LVLM.point.name": "resid_post",
            "answers.AnswerMetric.wrong": self.metric.right[:, None] + 1,
            "patching.agreement.clean": [clean],
            "patching.agreement.corrupted": [corrupted],
            "patching.agreement.positions": ["last"],
            "patching.agreement.kind": "logit_difference",
            "patching.attribute.positions": ["last"],
            "patching.attribute.reduce": "none",
            "patching.attribute.steps": 1,
            "patching.sweep.positions": ["last"],
            "patching.sweep.reduce": "none",
            "patching.another_scene.data": self.data,
            "patching.recolour_object.colour": None,
            "lenses.ImageAttribution.values": torch.rand(1, 2, 3),
            "lenses.ImageAttribution.layers": (1,),
            "lenses.Readout.logits": readout.logits,
            "lenses.Readout.log_total": readout.log_total,
            "lenses.Readout.labels": readout.labels,
            "view.overlay.image": self.picture,
            "view.overlays.image": self.picture,
            "view.overlay.values": np.ones((2, 2)),
            "view.overlays.values": [np.ones((2, 2))],
            "view.overlay.grid": None,
            "view.overlays.grid": None,
            "view.layer_curves.x": "layer",
            "view.layer_curves.y": "rid",
            "view.layer_curves.by": "update",
            "view.layer_curves.lines": None,
            "view.attention.cache": self.cache,
            "experiments.Results.table": self.results.table,
            "experiments.Results.summary.values": ["rid"],
            "experiments.Results.summary.by": ["layer"],
            "experiments.Results.save.name": "results",
            "means.Means.ablate.what": "resid",
            "pools.Pool.ablate.what": "resid",
            "pools.Pool.ablate.to": "resample",
            "pools.collect_pool.points": ["resid_post"],
            "Prompt.source.item": 0,
            "data.Question.id": "an-id",
            "data.Question.images": clean.images,
            "data.Question.answer": "a",
            "data.Question.choices": ("a", "b"),
            "data.Question.kind": "count",
            "data.Question.group": "g",
            "zoo.path.name": "tiny-llava",
            "answers.logit_difference.wrong": self.metric.right + 1,
            "metrics.attention_mass.keys": torch.ones(2, 6, dtype=torch.bool),
            "metrics.attention_entropy.keys": torch.ones(2, 6, dtype=torch.bool),
            "reductions.at.layers": [1],
            "experiments.decouple.by": "layer",
            "ActivationCache.kept": {},
            "ActivationCache.names": (),
            "ActivationCache.sites": self.model.sites,
            "ActivationCache.model": self.model.hf,
            "ActivationCache.meta": {},
            "ActivationCache.apply_ln_to_stack.residual_stack": self.cache.accumulated_resid(),
            "ActivationCache.to_logits.stream": self.cache["resid_post", -1],
            "ActivationCache.stack_activation.activation_name": "resid_post",
            "ActivationCache.logit_attrs.residual_stack": self.cache.accumulated_resid(),
            "ActivationCache.rows.rows": [1],
            "ActivationCache.grad.name": "blocks.1.hook_resid_post",
            "ActivationCache.rows.name": "blocks.1.attn.hook_pattern",
            "ActivationCache.load.path": self.saved("cache"),
            "means.Means.load.path": self.saved("means"),
            "pools.Pool.load.path": self.saved("pool"),
            "ActivationCache.map.metric": la.metrics.effective_rank,
            "Fixed.values": torch.rand(int(self.prompt.token_map["image"].sum())),
            "LVLM.prompt.question": clean,
            "LVLM.point.layer": 1,
            "LVLM.prompt.images": None,
            "data.Questions.__getitem__.index": 0,
            "reductions.alone.update": find_update(self.model.sites, "attn", 1),
            "reductions.let_go.reductions": [],
            "reductions.updates_of.numbers": torch.ones(2, 1),
            "view.Page.figure.fig": new_figure(3.0, 2.0),
            "view.Page.html.rendered": la.view.tokens(self.prompt, torch.rand(self.prompt.n_pos)),
            "view.Page.save.path": Path("page.html"),
            "view.accuracy_bars.df": pd.DataFrame(
                {
                    "condition": ["untouched", "a"],
                    "kind": ["all"] * 2,
                    "accuracy": [0.5, 0.4],
                    "low": [0.4, 0.3],
                    "high": [0.6, 0.5],
                    "seed": [0, 0],
                    "n": [9, 9],
                }
            ),
            "Means.ablate.what": "resid",
            "TokenMap.select.columns": slice(0, 3),
            "ActivationCache.stack_activation.name": "resid_post",
            "ActivationCache.at.keys": None,
            "ActivationCache.at.heads": None,
            "LVLM.generate.names_filter": None,
            "LVLM.run_with_cache.backward": None,
            "experiments.flow.edges": {"a": ("last", "image")},
        }

    @functools.cached_property
    def _names(self) -> dict[str, Any]:
        return self.by_name()

    @functools.cached_property
    def _places(self) -> dict[str, Any]:
        return self.by_place()

    def value(self, name: str, parameter: inspect.Parameter) -> Any:
        """The right value of one parameter; its default where nothing better is known."""
        place = f"{name}.{parameter.name}"
        owner, _, method = name.rpartition(".")
        if method == "from_json":
            return self._instance(owner, self._kind(owner)).to_json()
        if name in MADE:
            return getattr(self._instance(name, self._kind(name)), parameter.name, parameter.default)
        if place in self._places:
            return self._places[place]
        if parameter.name in self._names:
            return self._names[parameter.name]
        return None if parameter.default is parameter.empty else parameter.default

    def arguments(self, name: str, parameters: list[inspect.Parameter]) -> dict[str, Any]:
        """Right values of what must be given."""
        said = ("LVLM.prompt.question", "LVLM.point.layer", "load.selftest")
        cheap = ("max_new_tokens", "batch_size", "progress", "layers", "controls", "seeds", "positions")
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return {
            one.name: self.value(name, one)
            for one in parameters
            if one.kind not in variable
            and (
                one.default is one.empty
                or (one.name in cheap and "experiments" in name)
                or f"{name}.{one.name}" in said
            )
        }

    def bound(self, name: str, function: Any) -> Any:
        """What to call: the function itself, or the method of an instance; ``None`` for what only a server answers."""
        owner, _, method = name.rpartition(".")
        if name in NEEDLESS or owner in OF_A_SERVER or name in OF_A_SERVER:
            return None
        if owner in ("Intervention", "interventions.Source"):
            return None
        kind = self._kind(owner)
        if not isinstance(kind, type) or inspect.ismethod(function):
            return function
        instance = self._instance(owner, kind)
        return None if instance is None else getattr(instance, method)

    def _kind(self, owner: str) -> Any:
        import lostattn as la

        return functools.reduce(lambda value, part: getattr(value, part, None), owner.split("."), la) if owner else None

    @functools.cache  # noqa: B019 (a world lives as long as its process)
    def _instance(self, owner: str, kind: type) -> Any:
        import lostattn as la

        model = self.model
        known = {
            "LVLM": lambda: model,
            "answers.HookedModel": lambda: model,
            "ActivationCache": lambda: self.cache,
            "Prompt": lambda: self.prompt,
            "TokenMap": lambda: self.prompt.token_map,
            "data.Question": lambda: self.pair[0],
            "data.Questions": lambda: self.data,
            "experiments.Results": lambda: self.results,
            "lenses.Readout": lambda: self.cache.logit_lens(),
            "means.Means": lambda: self.means,
            "gradients.Gradients": lambda: la.gradients.gradients(
                model, self.prompt, self.metric, "blocks.1.hook_resid_post"
            ),
            "lenses.ImageAttribution": lambda: la.lenses.image_attribution(self.cache, int(self.metric.right[0])),
            "means.Directions": lambda: la.means.difference_of_means(model, self.data[:2], self.data[2:4], layers=[1]),
            "pools.Pool": lambda: la.pools.collect_pool(model, self.data[:2], ["resid_post"], layers=[1], size=4),
            "reductions.InPass": lambda: la.reductions.updates(),
            "reductions.Remembered": lambda: la.reductions.Remembered("blocks.1.hook_resid_post"),
            "reductions.Sum": lambda: la.reductions.Sum((("blocks.1.hook_resid_post", 1.0),)),
            "view.Page": lambda: la.view.Page("a page").text("a text"),
        }
        if owner in known:
            return known[owner]()
        return kind(**self.arguments(owner, list(inspect.signature(kind).parameters.values())))

"""Interventions as values: JSON and back, equality, hash, repr, and the algebra of ``+``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lostattn as la
from lostattn.errors import InputError, UnknownName
from lostattn.interventions.sources import Source
from lostattn.plan.intervention import Serializable

SEEDS = st.integers(0, 2**40)
PLACES = st.one_of(
    st.none(), st.integers(-4, 4), st.lists(st.integers(-4, 4), min_size=1, max_size=3), st.just(range(1, 3))
)
STEPS = st.one_of(
    st.sampled_from(["all", "prefill", "decode"]),
    st.integers(0, 3).map(lambda i: (i, None)),
    st.integers(0, 3).map(lambda i: (i, i + 2)),
)


def tensors(*shape: int) -> st.SearchStrategy[Tensor]:
    n = int(np.prod(shape))
    numbers = st.lists(st.floats(0.25, 8, width=32), min_size=n, max_size=n)
    return numbers.map(lambda values: torch.tensor(values).reshape(shape))


MASKS = st.lists(st.booleans(), min_size=5, max_size=5).map(torch.tensor)
OPTIONAL_INT = st.one_of(st.none(), st.integers(-5, 5))
POSITIONS = st.one_of(
    st.sampled_from(["image", "last", "text", "image:1", "system|question"]),
    st.integers(-3, 3),
    st.lists(st.integers(-3, 3), min_size=1, max_size=3),
    st.builds(slice, OPTIONAL_INT, OPTIONAL_INT),
    MASKS,
    st.lists(st.booleans(), min_size=5, max_size=5).map(np.array),
    st.tuples(st.just("question"), MASKS),
)
SOURCES = st.one_of(
    st.builds(la.Gaussian, SEEDS),
    st.builds(la.Dirichlet, SEEDS, st.booleans()),
    st.just(la.Uniform()),
    st.just(la.Complexity()),
    st.builds(la.VisionPrior, st.integers(-3, 3)),
    st.one_of(tensors(3), tensors(2, 3), tensors(2, 1, 3)).map(la.Fixed),
    st.dictionaries(st.integers(0, 4), tensors(1, 2, 3, 3), min_size=1, max_size=2).map(la.FromCache),
)
HALF = st.floats(0, 1)
REPLACE = st.builds(
    la.ReplaceAttention,
    SOURCES,
    layers=PLACES,
    heads=PLACES,
    queries=POSITIONS,
    keys=POSITIONS,
    mix=HALF,
    space=st.sampled_from(["weights", "scores"]),
    keep_mass=st.booleans(),
    steps=st.sampled_from(["all", "prefill", (0, 3)]),
)
RELEASED = st.builds(
    la.Released,
    prior=st.one_of(st.sampled_from(["gaussian_noise", "vision_encoder", "image_complexity"]), st.just(la.Uniform())),
    layers=PLACES,
    mix=HALF,
    percentiles=st.sampled_from([(0.0, 1.0), (0.3, 0.9), (0.25, 0.5)]),
    seed=SEEDS,
    steps=STEPS,
)
ABLATE = st.one_of(
    st.builds(la.Ablate, st.just("head"), layers=PLACES, heads=PLACES, positions=POSITIONS, seed=SEEDS, steps=STEPS),
    st.builds(
        la.Ablate,
        st.sampled_from(["attn", "mlp", "resid"]),
        layers=PLACES,
        to=st.sampled_from(["mean", "resample"]),
        reference=st.one_of(st.none(), tensors(2, 3)),
        seed=SEEDS,
    ),
)
ONE = st.one_of(
    REPLACE,
    RELEASED,
    ABLATE,
    st.builds(la.KnockOut, POSITIONS, POSITIONS, layers=PLACES, heads=PLACES, steps=STEPS),
    st.builds(la.ScaleAttention, st.floats(-4, 4), queries=POSITIONS, keys=POSITIONS, layers=PLACES, steps=STEPS),
    st.builds(
        la.NoiseUpdate,
        st.sampled_from(["attn", "mlp"]),
        layers=PLACES,
        positions=POSITIONS,
        std=st.one_of(st.none(), st.floats(0, 4)),
        seed=SEEDS,
        steps=STEPS,
    ),
    st.builds(la.NoiseWeights, st.sampled_from(["qkv", "mlp"]), layers=PLACES, seed=SEEDS, steps=STEPS),
    st.builds(la.RemoveRotary, layers=PLACES),
)
HOMES = {
    "lostattn.plan.intervention",
    *(
        f"lostattn.interventions.{name}"
        for name in ("ablation", "attention", "noise", "picture_sources", "rotary", "sources")
    ),
}
ANY = st.one_of(ONE, st.lists(ONE, max_size=3).map(lambda parts: la.Composition(tuple(parts))))
QUICK = settings(max_examples=50, deadline=None, derandomize=True)
# beartype picks the item of a sequence that it looks at by chance, and hypothesis warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


def test_the_strategies_reach_every_class():
    reached = {
        *("ReplaceAttention", "Released", "Ablate", "KnockOut", "ScaleAttention", "NoiseUpdate", "NoiseWeights"),
        *("RemoveRotary", "Composition"),
        *("Gaussian", "Dirichlet", "Uniform", "Complexity", "VisionPrior", "Fixed", "FromCache"),
    }
    defined = {
        kind.__name__
        for kind in Serializable._known.values()
        if kind.__module__ in HOMES and kind.__name__ not in ("Intervention", "Source")
    }
    assert defined == reached


@QUICK
@given(ANY)
def test_to_json_and_back(edit):
    text = edit.to_json()
    assert isinstance(json.loads(text), dict) and "\n" not in text
    back = la.Intervention.from_json(text)
    assert type(back) is type(edit)
    assert back == edit and hash(back) == hash(edit) and back.to_json() == text
    for name in edit.__dataclass_fields__:
        _same(getattr(back, name), getattr(edit, name))


def _same(a: Any, b: Any) -> None:
    if isinstance(b, np.ndarray):
        b = torch.from_numpy(b)
    assert type(a) is type(b)
    if isinstance(b, Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(b, tuple | list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _same(x, y)
    elif isinstance(b, dict):
        assert list(a) == list(b)
        for key in b:
            _same(a[key], b[key])
    else:
        assert a == b


@QUICK
@given(SOURCES)
def test_sources_too(source):
    assert Source.from_json(source.to_json()) == source


@QUICK
@given(ANY, ANY)
def test_equal_values_are_equal_and_others_are_not(a, b):
    assert (a == b) == (a.to_json() == b.to_json())
    assert len({a, b}) == (1 if a == b else 2)
    assert a != a.to_json()


@QUICK
@given(ANY, ANY, ANY)
def test_addition_is_associative_has_an_identity_and_keeps_the_order(a, b, c):
    nothing = la.Composition(())
    assert (a + b) + c == a + (b + c)
    assert a + nothing == nothing + a
    assert _parts(a + nothing) == _parts(a)
    assert _parts(a + b + c) == (*_parts(a), *_parts(b), *_parts(c))
    assert not any(isinstance(part, la.Composition) for part in _parts(a + b + c))
    assert sum([a, b, c]) == a + b + c
    assert la.Composition((a, la.Composition((b, c)))) == la.Composition((*_parts(a), *_parts(b), *_parts(c)))


def _parts(edit: la.Intervention) -> tuple[la.Intervention, ...]:
    return edit.parts if isinstance(edit, la.Composition) else (edit,)


@QUICK
@given(ANY)
def test_a_shifted_seed_comes_back(edit):
    assert edit.with_seed(0) == edit
    assert edit.with_seed(3).with_seed(-3) == edit
    assert (edit.with_seed(3) == edit) == ('"seed"' not in edit.to_json())


def test_order_is_part_of_the_value():
    a, b = la.Ablate("mlp", layers=1), la.KnockOut("last", "image")
    assert a + b != b + a


@pytest.mark.usefixtures("untyped")
def test_equal_however_they_were_written():
    assert la.Ablate("mlp", layers=3) == la.Ablate("mlp", layers=[3]) == la.Ablate("mlp", layers=np.arange(3, 4))
    assert la.ScaleAttention(2) == la.ScaleAttention(2.0)
    assert la.ReplaceAttention(la.Gaussian(seed=np.int64(7)), mix=1) == la.ReplaceAttention(la.Gaussian(seed=7))
    assert la.KnockOut("last", "image", steps="decode") == la.KnockOut("last", "image", steps=(1, None))
    assert la.Released(percentiles=[0.3, 0.9]) == la.Released()
    mask = torch.tensor([True, False])
    assert la.KnockOut(mask, "image") == la.KnockOut(mask.clone(), "image") != la.KnockOut(~mask, "image")


@pytest.mark.usefixtures("untyped")
def test_adding_something_else_is_a_type_error():
    with pytest.raises(TypeError):
        la.Ablate("mlp") + 3
    with pytest.raises(TypeError):
        la.Ablate("mlp") + la.Gaussian()
    with pytest.raises(InputError, match=r"a composition holds 3; expected interventions, such as KnockOut"):
        la.Composition((la.Ablate("mlp"), 3))


def test_repr_says_what_differs_from_the_default():
    edit = la.ReplaceAttention(la.Gaussian(seed=5), layers=range(2, 4)) + la.Ablate("mlp")
    assert repr(edit) == "ReplaceAttention(source=Gaussian(seed=5), layers=(2, 3)) + Ablate(what='mlp')"
    assert repr(la.Composition(())) == "Composition(())"
    assert repr(la.FromCache({2: torch.zeros(1, 2, 3, 3)})) == "FromCache(patterns={2: <float32 (1, 2, 3, 3)>})"
    assert repr(la.KnockOut(torch.tensor([True]), "image")) == "KnockOut(queries=<bool (1,)>, keys='image')"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: "),
        ("3", 'expected a JSON object with a "type"'),
        ('{"layers": 3}', 'expected a JSON object with a "type"'),
        ('{"type": "KnockOut"}', "the JSON does not make a KnockOut: .*missing .*'queries'"),
        ('{"type": "Ablate", "what": "mlp", "layer": 3}', "Ablate has no field 'layer'; its fields are heads, layers"),
        ('{"type": "Ablate", "what": "nose"}', "what is 'nose'; expected one of 'attn', 'mlp', 'head', 'resid'"),
        ('{"type": "Ablate", "what": {"nose": 1}}', r"cannot read \{'nose': 1\} from JSON"),
        ('{"type": "KnockOut", "queries": {"tensor": "%%"}, "keys": 1}', "cannot read .*'tensor'.* from JSON"),
        ('{"type": "KnockOut", "queries": {"slice": [1]}, "keys": 1}', "cannot read .*'slice'.* from JSON"),
        ('{"type": "Gaussian", "seed": 3}', "the JSON holds a Gaussian; expected Intervention"),
    ],
)
def test_malformed_json(text, message):
    with pytest.raises(InputError, match=message):
        la.Intervention.from_json(text)


@pytest.mark.parametrize("name", ["KnockOuts", "Intervention", "Serializable", "Prompt"])
def test_unknown_types(name):
    with pytest.raises(UnknownName, match=f"no intervention or source is called '{name}'."):
        la.Intervention.from_json(json.dumps({"type": name}))


def test_an_unknown_type_is_told_its_neighbours():
    with pytest.raises(UnknownName, match="Did you mean 'KnockOut'"):
        la.Intervention.from_json('{"type": "KnockOuts"}')


def test_what_has_no_place_in_json():
    with pytest.raises(InputError, match=r"range range\(0, 3\) does not go to JSON; use numbers, names, slices"):
        la.KnockOut(range(3), "image").to_json()

"""Caches, means and pools from strangers and from half a run: each is read, or refused by the toolkit's own error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from damaged_files import (
    ALIENS,
    changed,
    cut,
    header_file,
    in_the_way,
    places,
    taken_apart,
    tensor_file,
    texts,
    without,
)

import lostattn as la
from lostattn.errors import InputError
from lostattn.means import Means
from lostattn.pools import Pool

FIRST = Path(__file__).parent / "first"
KINDS = ("cache", "means", "pool")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def load(kind, tiny_llava):
    loads = {"cache": lambda path: la.ActivationCache.load(path, tiny_llava), "means": Means.load, "pool": Pool.load}
    return loads[kind]


@pytest.fixture
def sound(kind):
    return (FIRST / f"{kind}.safetensors").read_bytes()


def refused(load, path: Path) -> str:
    """What the error says, which names the file."""
    with pytest.raises(InputError) as told:
        load(path)
    assert path.name[:100] in str(told.value) or ascii(path.name)[1:60] in str(told.value)
    assert len(str(told.value)) < 1500
    return str(told.value)


def test_what_is_no_file_is_refused_at_once(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in in_the_way(tmp_path):
        with pytest.raises(InputError, match="there is no file|no regular file|cannot be read|expected a path"):
            load(tmp_path / name)


def test_what_was_cut_is_refused(load, sound, tmp_path):
    for told, content in cut(sound):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(content)
        assert refused(load, path), told


HEADERS = {
    "one of terabytes": header_file("{}", length=1 << 45),
    "one of more than there is": header_file("{}", length=3),
    "none": header_file(""),
    "a list": header_file("[]"),
    "deep": header_file("[" * 200_000),
    "no UTF-8": b"\x02" + bytes(7) + b"\xff\xff",
    "another's": header_file("{}"),
    "words that are no texts": header_file('{"__metadata__": {"lostattn": {"format": 1}}}'),
    "words that are none": header_file('{"__metadata__": 3}'),
    "two of one name": header_file(
        '{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": {"dtype": "U8", "shape": [1], '
        '"data_offsets": [0, 1]}}',
        b"a",
    ),
}


@pytest.mark.parametrize("told", HEADERS)
def test_headers_that_are_none_are_refused(told, load, tmp_path):
    path = tmp_path / "header.safetensors"
    path.write_bytes(HEADERS[told])
    refused(load, path)


CLAIMS = [
    {"shape": [1 << 40, 1 << 40]},
    {"shape": [1 << 62]},
    {"shape": [0, 1 << 62, 1 << 62]},
    {"shape": [-1]},
    {"shape": [1.0]},
    {"shape": [True]},
    {"shape": [1] * 1000},
    {"shape": "12"},
    {"shape": None},
    {"dtype": "F4"},
    {"dtype": "F64"},
    {"dtype": 3},
    {"dtype": None},
    {"data_offsets": [0, 1 << 50]},
    {"data_offsets": [8, 4]},
    {"data_offsets": [-8, 4]},
    {"data_offsets": [0]},
    {"data_offsets": {}},
    {"data_offsets": [0.0, 4.0]},
    {"data_offsets": [1 << 70, 1 << 71]},
]


def test_what_a_header_claims_is_held_against_the_file(load, sound, tmp_path):
    tensors, held, data = taken_apart(sound)
    path = tmp_path / "claims.safetensors"
    for name in list(tensors)[:: max(1, len(tensors) // 3)]:
        for claim in CLAIMS:
            if claim == {"dtype": "F64"} and tensors[name]["dtype"] == "I64":
                continue  # of the same width: other numbers, and a tensor none the less
            path.write_bytes(tensor_file({**tensors, name: {**tensors[name], **claim}}, held, data))
            refused(load, path)
        for key in tensors[name]:
            path.write_bytes(tensor_file(without(tensors, (name, key)), held, data))
            refused(load, path)
        path.write_bytes(tensor_file({**tensors, name: 3}, held, data))
        refused(load, path)


def test_a_tensor_that_is_missing_is_named(load, sound, tmp_path):
    """The values stay where they are under another name, so that the file itself is sound."""
    tensors, held, data = taken_apart(sound)
    path = tmp_path / "missing.safetensors"
    for name in tensors:
        if name.startswith("prompt.inputs."):
            continue  # what a model is given is a matter of the model
        renamed = {"odd" if one == name else one: about for one, about in tensors.items()}
        path.write_bytes(tensor_file(renamed, held, data))
        if len(tensors) > 1:
            refused(load, path)
        flat = {**tensors, name: {**tensors[name], "shape": [1, *tensors[name]["shape"], 1]}}
        path.write_bytes(tensor_file(flat, held, data))
        if name.startswith(("prompt.", "mean/", "variance/")):
            refused(load, path)


def test_words_about_tensors_are_held_to_their_shape(kind, load, sound, tmp_path):
    tensors, held, data = taken_apart(sound)
    path = tmp_path / "words.safetensors"
    refusals = tried = 0
    for i, at in enumerate(places(held)):
        wordy = at[0] == "meta" and len(at) > 1 and at[1] != "interventions"  # the user's own words may say anything
        if wordy or at[:2] == ("prompt", "str_tokens") and len(at) > 3 and at[3]:
            continue
        for alien in ALIENS[i % 4 :: 4] if kind == "cache" else ALIENS:  # a cache has hundreds of places
            path.write_bytes(tensor_file(tensors, changed(held, at, alien), data))
            tried += 1
            try:
                load(path)
            except InputError as error:
                refusals += 1
                assert "words.safetensors" in str(error) and len(str(error)) < 1500
        path.write_bytes(tensor_file(tensors, without(held, at), data))
        if at[-1] in ("format", "names", "geometry", "has_batch_dim", "meta", "weights", "prompt", "count", "located"):
            refused(load, path)
    assert tried > 20 and refusals > 0.5 * tried


def test_texts_of_words_that_are_not_what_they_seem(load, sound, tmp_path):
    tensors, held, data = taken_apart(sound)
    path = tmp_path / "texts.safetensors"
    for told, text in texts(held):
        path.write_bytes(tensor_file(tensors, text, data))
        assert refused(load, path), told
    for odd in ("[" * 200_000, "NaN", "3", "[]", "null", ""):
        path.write_bytes(tensor_file(tensors, odd, data))
        refused(load, path)
    noted = changed(held, ("meta",), {**held["meta"], "note": float("nan")})
    path.write_bytes(tensor_file(tensors, noted, data))
    assert str(load(path).meta["note"]) == "nan", "what a user noted may be no number of JSON, as it was saved"


WORDS = {
    "maps of other items": {"texts": ["a", "b"]},
    "other tokens": {"str_tokens": [["a"]]},
    "a picture that is not there": {"n_images": [2]},
    "pictures without an end": {"n_images": [1 << 50]},
    "no items": {"grids": [], "located": [], "n_images": [], "texts": [], "ids": [], "str_tokens": [], "videos": []},
    "a video that is not there": {"videos": [[{"fps": 2, "seconds": None}]]},
    "a grid of more patches than there are": {"grids": [[{"known": True, "rows": 1 << 16, "cols": 1 << 16}]]},
    "a grid of fewer patches": {"grids": [[{"known": True, "rows": 2, "cols": 2}]]},
    "no grid": {"grids": [[]]},
    "no tiles": {"grids": [[{"known": True, "tiles": []}]]},
    "half a place": {"grids": [[{"known": True, "rows": 6, "cols": 6, "covers": [0, 0, 1]}]]},
}


@pytest.mark.parametrize("told", WORDS)
def test_a_prompt_whose_parts_do_not_fit_each_other_is_refused(told, tiny_llava, tmp_path):
    tensors, held, data = taken_apart((FIRST / "cache.safetensors").read_bytes())
    path = tmp_path / "prompt.safetensors"
    path.write_bytes(tensor_file(tensors, {**held, "prompt": {**held["prompt"], **WORDS[told]}}, data))
    refused(lambda one: la.ActivationCache.load(one, tiny_llava), path)


def test_points_that_a_model_has_not_and_kernels_that_are_half_told(tiny_llava, tmp_path):
    tensors, held, data = taken_apart((FIRST / "cache.safetensors").read_bytes())
    path = tmp_path / "points.safetensors"
    odd = [
        {"names": ["blocks.99.hook_resid_post"]},
        {"names": ["blocks.1.hook_resid_post"]},
        {"names": ["blocks.1.attn.hook_pattern"]},
        {"geometry": {"blocks.1.attn.geometry": {}}},
        {"geometry": {"blocks.1.attn.geometry": {"causal": True}}},
        {"geometry": {"blocks.1.attn.geometry": {"causal": "last", "scaling": 1.0}}},
        {"meta": {**held["meta"], "touched": {"edits": [], "records": [[0, 0, [1]]]}}},
        {"meta": {**held["meta"], "touched": 3}},
        {"meta": {**held["meta"], "interventions": {"type": "Steer", "vectors": {"tensor": {"name": "x"}}}}},
    ]
    for change in odd:
        path.write_bytes(tensor_file(tensors, {**held, **change}, data))
        assert refused(lambda one: la.ActivationCache.load(one, tiny_llava), path), json.dumps(change)

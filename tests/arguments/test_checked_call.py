"""Arguments held to annotations: what passes, what is refused and in which words, and what it costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lostattn.arguments import check_fields, checked_call
from lostattn.arguments.kinds import Count, Told
from lostattn.errors import InputError, UnknownArgument


@checked_call
def call(
    n: int = 0,
    x: float | int = 0.0,
    text: str = "",
    flag: bool = False,
    several: Sequence[str] = (),
    numbers: Iterable[int] = (),
    by_name: Mapping[str, int] | None = None,
    function: Callable[[Any], Any] | None = None,
    path: str | Path = "here",
    mode: Literal["mean", "none"] = "none",
    pair: tuple[int, float] = (0, 0.0),
    count: Count = 1,
    told: Annotated[int, Told("a layer")] = 0,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    anything: Any = None,
) -> str:
    """What is called here."""
    return "called"


@checked_call
def states(
    before: Float[Tensor, "*batch pos d_model"],
    after: Float[Tensor, "*batch pos d_model"],
    mask: Bool[Tensor, "*batch pos"] | None = None,
    ids: Int[Tensor, "item"] | None = None,
) -> int:
    """What is called here."""
    return 1


RIGHT = [
    {"n": -3, "x": 2, "text": "a", "flag": True},
    {"n": np.int64(3), "x": np.float32(0.5), "flag": np.True_},
    {"several": ["a", "b"], "numbers": range(3)},
    {"numbers": np.arange(3)},
    {"numbers": torch.arange(3)},
    {"numbers": {1, 2}, "several": ("a",)},
    {"by_name": {"a": 1}},
    {"function": abs},
    {"function": lambda value, more=1: value},
    {"function": lambda *values: values},
    {"path": Path("a/b"), "mode": "mean", "pair": (1, 2.0), "count": 10**7},
    {"device": "cpu", "dtype": torch.float16},
    {"device": torch.device("cpu")},
    {"anything": object()},
]

WRONG = [
    ({"n": True}, "n is True; expected a whole number"),
    ({"n": 2.0}, "n is 2.0; expected a whole number"),
    ({"n": "3"}, "n is '3'; expected a whole number"),
    ({"n": None}, "n is None; expected a whole number"),
    ({"n": 10**30}, "expected a whole number"),
    ({"n": 10**6000}, "n is an int of 19932 bits; expected a whole number"),
    ({"x": float("nan")}, "x is nan; expected a finite number"),
    ({"x": float("inf")}, "x is inf; expected a finite number"),
    ({"x": False}, "x is False; expected a finite number"),
    ({"text": b"a"}, "text is b'a'; expected a str. Decode it"),
    ({"flag": 1}, "flag is 1; expected True or False"),
    ({"several": "ab"}, "several is 'ab'; expected a list of str. Put it in a list: ['ab']"),
    ({"several": ["a", 3]}, "several[1] is 3; expected a str"),
    ({"several": {"a": 1}}, "expected a list of str"),
    ({"numbers": [1, None]}, "numbers[1] is None; expected a whole number"),
    ({"numbers": torch.rand(3)}, "expected a whole number"),
    ({"numbers": torch.ones(2, device="meta")}, "on meta; expected a list of whole numbers"),
    ({"by_name": {"a": "b"}}, "by_name['a'] is 'b'; expected a whole number"),
    ({"by_name": {1: 1}}, "by_name's key 1 is 1; expected a str"),
    ({"function": lambda: None}, "expected a function of 1 argument"),
    ({"function": lambda a, b: None}, "expected a function of 1 argument"),
    ({"function": "mean"}, "function is 'mean'; expected a function of 1 argument"),
    ({"path": b"a"}, "path is b'a'; expected a path"),
    ({"path": "a\0b"}, "expected a path"),
    ({"path": "n" * 300}, "expected a path"),
    ({"path": Path("n" * 300)}, "path is the path 'nnn"),
    ({"path": ""}, "path is ''; expected a path"),
    ({"mode": "maen"}, "mode is 'maen'; expected one of 'mean', 'none'. Did you mean 'mean'"),
    ({"pair": [1, 2.0]}, "pair is [1, 2.0]; expected a tuple of 2"),
    ({"count": 0}, "count is 0; expected a whole number from 1 to ten million"),
    ({"count": 10**8}, "expected a whole number from 1 to ten million"),
    ({"told": "x"}, "told is 'x'; expected a layer."),
    ({"device": "cuad"}, "device is 'cuad'; expected a device of this machine"),
    ({"device": "cuda:77"}, "device is 'cuda:77'; expected a device of this machine"),
    ({"device": "meta"}, "expected a device of this machine"),
    ({"dtype": torch.int32}, "dtype is torch.int32; expected a floating-point torch dtype"),
    ({"anything": 10**30}, "expected no int beyond 64 bits"),
    ({"anything": torch.ones(2, device="meta")}, "expected no int beyond 64 bits, and no tensor that is"),
]


@pytest.mark.parametrize("given", RIGHT, ids=[", ".join(given) or "nothing" for given in RIGHT])
def test_what_an_annotation_admits(given):
    assert call(**given) == "called"


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_what_it_does_not_is_told(given, said):
    with pytest.raises(InputError, match=re.escape(said)):
        call(**given)


def test_an_argument_by_position_is_told_by_its_name():
    with pytest.raises(InputError, match=re.escape("text is 3; expected a str")):
        call(1, 2.0, 3)


def test_an_unknown_keyword_is_told_the_nearest_and_is_a_type_error_too():
    with pytest.raises(UnknownArgument, match="call takes no argument 'numbres'; .* Did you mean 'numbers'") as caught:
        call(numbres=[1])
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, InputError)


def test_a_missing_argument_is_pythons_own():
    with pytest.raises(TypeError, match="after"):
        states(torch.ones(2, 3))


X = torch.ones(2, 3, 5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((X.numpy(), X), "before is a numpy array of float32 and shape (2, 3, 5); expected a floating-point tensor"),
        (
            (X.long(), X),
            "before is a tensor of int64 and shape (2, 3, 5); expected a floating-point tensor [*batch, pos",
        ),
        ((X[0, 0], X), "before is a tensor of float32 and shape (5,)"),
        ((X, X[:, :2]), "shape (2, 2, 5), so its pos is 2, where that of before is 3"),
        ((X, X[:1]), "so its batch is (1,), where that of before is (2,)"),
        ((X, X, X[..., 0] > 0, torch.ones(3)), "ids is a tensor of float32 and shape (3,); expected a whole-number"),
        ((X, X, torch.ones(2, 4) > 0), "mask is a tensor of bool and shape (2, 4), so its pos is 4"),
        ((X, X.to("meta")), "on meta; expected a floating-point tensor"),
        ((X.to_sparse(), X), "expected a floating-point tensor"),
        ((X.to(torch.complex64), X), "of complex64"),
    ],
)
def test_tensors_are_held_to_dtype_axes_and_each_other(given, said):
    with pytest.raises(InputError, match=re.escape(said)):
        states(*given)


def test_tensors_that_go_together():
    assert states(X, X.half().float(), X[..., 0] > 0) == states(X[0], X[0]) == 1


@checked_call
@dataclass(frozen=True)
class Value:
    """A value that looks at its own fields."""

    parts: tuple[str, ...]
    n: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        check_fields(self, "parts")

    def method(self, n: int) -> int:
        """A public method."""
        return n

    @classmethod
    def of(cls, n: int) -> Value:
        """Another way to make one."""
        return cls((str(n),))


def test_classes_are_held_by_method_and_those_that_look_at_their_fields_do_so_first():
    assert Value(["a"]).parts == ("a",)  # a list became a tuple before it was looked at
    with pytest.raises(InputError, match=re.escape("parts[0] is 3; expected a str")):
        Value([3])
    with pytest.raises(UnknownArgument, match="Value takes no argument 'part'.*Did you mean 'parts'"):
        Value(part=["a"])
    with pytest.raises(InputError, match="n is '3'; expected a whole number"):
        Value(("a",)).method("3")
    with pytest.raises(InputError, match="n is None; expected a whole number"):
        Value.of(None)


def test_a_checked_function_is_what_it_was_to_those_who_look():
    assert call.__name__ == "call" and call.__doc__ == "What is called here."
    assert call.__wrapped__.__code__.co_name == "call"

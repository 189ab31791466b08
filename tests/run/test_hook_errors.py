"""Errors in a caller's own hook: told by the caller's line, and first of all lines of the traceback."""

from __future__ import annotations

import re
import traceback

import pytest
import tiny
import torch

from lostattn.errors import HookFailed, InputError

POINTS = ("blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern")


@pytest.fixture(scope="module")
def model():
    return tiny.wrapped("llava")


@pytest.fixture(scope="module")
def prompt(model):
    return model.prompt(inputs=tiny.llava_inputs())


def fails(value, hook):
    changed = value + 1
    return changed.no_such_thing


def fails_in_torch(value, hook):
    return torch.einsum("ab,bc->ac", value, value)


class Enough(Exception):
    """What somebody raises to leave a pass early."""


def leaves(value, hook):
    raise Enough(hook.name)


@pytest.mark.parametrize("point", POINTS)
def test_the_callers_own_line_stands_first(model, prompt, point):
    with pytest.raises(
        HookFailed, match=f"hook fails at '{point}' failed in test_hook_errors.py, line .*no_such_thing"
    ):
        model.run_with_hooks(prompt, [(point, fails)])
    try:
        model.run_with_hooks(prompt, [(point, fails)])
    except HookFailed as error:
        files = re.findall(r'File "([^"]*)", line \d+, in (\w+)', "".join(traceback.format_exception(error)))
    assert files[0] == (__file__, "fails")
    assert not [file for file, _ in files if "nnsight" in file or "transformers" in file]


def test_the_line_is_the_callers_where_torch_refuses(model, prompt):
    with pytest.raises(HookFailed, match=re.escape('return torch.einsum("ab,bc->ac", value, value)')):
        model.run_with_hooks(prompt, [(POINTS[0], fails_in_torch)])


def test_an_exception_of_the_callers_own_comes_out_as_it_is(model, prompt):
    with pytest.raises(Enough, match=POINTS[0]):
        model.run_with_hooks(prompt, [(POINTS[0], leaves)])


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    ("function", "returned"),
    [
        (lambda value, hook: value.numpy(), "ndarray"),
        (lambda value, hook: value.to("meta"), "on meta"),
        (lambda value, hook: value[:, :1], "shape"),
        (lambda value, hook: value.to(torch.complex64), "complex64"),
        (lambda value, hook: value.resize_(1) and None, "shape"),
        (lambda value, hook: [value], "list"),
        (lambda value, hook: 0.0, "float"),
    ],
)
def test_what_is_no_new_value_is_refused(model, prompt, point, function, returned):
    with pytest.raises(HookFailed, match=f"the hook at '{point}' returned .*{returned}.*; expected the new value"):
        model.run_with_hooks(prompt, [(point, function)])


def test_integers_are_taken_as_numbers(model, prompt):
    rounded = model.run_with_hooks(prompt, [(POINTS[0], lambda value, hook: value.long())])
    same = model.run_with_hooks(prompt, [(POINTS[0], lambda value, hook: value.long().float())])
    assert torch.equal(rounded, same)


@pytest.mark.parametrize(
    "function", [lambda value: value, lambda: None, lambda value, hook, more: value, lambda *, value, hook: value]
)
def test_another_number_of_arguments_is_refused_before_the_pass(model, prompt, function):
    with pytest.raises(InputError, match=r"cannot be called as function\(value, hook\)"):
        model.run_with_hooks(prompt, [(POINTS[0], function)])

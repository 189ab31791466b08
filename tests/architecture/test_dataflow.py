"""What is read from the source of a forward: which child gets what, what is added up, which branch runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lostattn.architecture.dataflow import ATTENTION_CALL, INPUT, Value, flow


class Layer(nn.Module):
    """The children that the layers below share."""

    def __init__(self, kind: str = "full", scale: float = 0.25):
        super().__init__()
        self.norm, self.attn, self.other, self.after, self.mlp = (nn.Linear(3, 3) for _ in range(5))
        self.drop = nn.Dropout(0.1)
        self.gate = nn.Parameter(torch.ones(1))
        self.kind, self.scale = kind, scale


class PreNorm(Layer):
    def forward(self, x, mask=None, **kwargs):
        residual = x
        x = self.norm(x)
        x, _ = self.attn(x, mask=mask, **kwargs)
        x = residual + self.drop(x)
        residual = x
        x = self.mlp(self.after(x)).to(x.dtype)
        x = nn.functional.dropout(x, p=0.1, training=self.training)
        return (residual + x).view(residual.shape), None


class Branching(Layer):
    def forward(self, x, cache=None):
        if cache is not None:
            x = self.after(x)
        if self.kind == "linear":
            y = self.other(x)
        elif self.kind in ("full", "sliding"):
            y = self.attn(x)
        else:
            raise ValueError(self.kind)
        return x + y * self.scale


class Gated(Layer):
    def forward(self, x):
        return x + self.gate.tanh() * self.attn(x)


class Parallel(Layer):
    def forward(self, x):
        normed = self.norm(x)
        a = self.attn(normed)
        return x + a + self._mix(normed)

    def _mix(self, normed):
        return self.mlp(normed)


class Joined(Layer):
    def forward(self, x):
        y = self.attn(x)
        z = self.after(x, y)
        return self.mlp(z)


def child(name: str, factor: float | None = 1.0) -> Value:
    return Value("child", name, factor)


def test_the_stream_of_a_pre_norm_layer_is_followed_through_its_variables():
    read = flow(PreNorm())
    assert [call.child for call in read.calls] == ["norm", "attn", "after", "mlp"]
    assert read.calls[0].given == (INPUT,)
    assert read.calls[1].given[0] == child("norm")
    assert read.calls[2].given[0] == Value("sum", parts=(INPUT, child("attn")))
    assert read.result == Value("sum", parts=(INPUT, child("attn"), child("mlp")))


@pytest.mark.parametrize(("kind", "runs"), [("full", "attn"), ("sliding", "attn"), ("linear", "other")])
def test_a_branch_is_chosen_by_the_modules_own_attributes(kind, runs):
    read = flow(Branching(kind))
    assert [call.child for call in read.calls] == [runs]  # and what waits for a cache does not run
    assert read.result == Value("sum", parts=(INPUT, child(runs, 0.25)))


def test_a_gate_is_no_number():
    assert flow(Gated()).result == Value("sum", parts=(INPUT, child("attn", None)))


def test_a_helper_method_is_followed():
    read = flow(Parallel())
    assert read.result == Value("sum", parts=(INPUT, child("attn"), child("mlp")))
    assert read.calls[2].given == (child("norm"),)


def test_a_child_that_joins_the_stream_with_something_is_a_gated_sum():
    read = flow(Joined())
    assert read.calls[2].given[0] == Value("sum", parts=(INPUT, child("after", None)))


def test_the_attention_call_is_listed_with_what_reaches_it():
    from tiny import bare

    layer = bare("llava").model.language_model.layers[0]
    names = [call.child for call in flow(layer.self_attn).calls]
    assert names == ["q_proj", "k_proj", "v_proj", ATTENTION_CALL, "o_proj"]
    assert flow(layer).result.parts[1:] == (child("self_attn"), child("mlp"))


def test_a_forward_without_source_is_empty():
    namespace: dict = {}
    exec("def forward(self, x): return x", namespace)
    assert flow(type("Made", (nn.Module,), namespace)()).calls == ()

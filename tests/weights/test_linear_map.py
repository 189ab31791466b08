"""The linear map of a layer, held to what it was made of: plain, parametrised, wrapped, or somebody's own."""

from __future__ import annotations

import bounds
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from transformers.integrations.finegrained_fp8 import FP8Linear
from transformers.pytorch_utils import Conv1D

from lostattn.errors import InputError
from lostattn.weights import linear_map
from lostattn.weights.kinds import is_linear_layer, may_be_linear, widths

IN, OUT, RANK = 13, 9, 3


def made(layer: nn.Module, seed: int = 0) -> nn.Module:
    """A layer with weights of order one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return layer


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    """Products summed over at most ``IN`` numbers of mixed signs, whose sizes add up to some ``√IN`` times as much."""
    bounds.close(one, other, bounds.sums(IN), size=IN**0.5 * other.detach().abs().max())


def found(layer: nn.Module, name: str = "layer"):
    return linear_map(nn.ModuleDict({name: layer}), name)


class Low(nn.Module):
    """A map of low rank, of somebody's own: it says neither its widths nor that it is linear."""

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(RANK, IN))
        self.up = nn.Parameter(torch.zeros(OUT, RANK))
        self.offset = nn.Parameter(torch.zeros(OUT))
        self.scale = scale
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(x) @ self.down.T @ self.up.T * self.scale + self.offset


def test_a_plain_layer_gives_its_own_weight_without_a_copy():
    layer = made(nn.Linear(IN, OUT))
    got = found(layer)
    assert got.weight.data_ptr() == layer.weight.data_ptr()
    assert torch.equal(got.bias, layer.bias) and got.rounds == 0
    assert found(made(nn.Linear(IN, OUT, bias=False))).bias is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_plain_layer_keeps_its_dtype(dtype):
    layer = made(nn.Linear(IN, OUT)).to(dtype)
    got = found(layer)
    assert got.weight.dtype == dtype and torch.equal(got.weight, layer.weight)


def test_a_transposed_layer():
    layer = made(Conv1D(OUT, IN))  # [in, out]
    got = found(layer)
    assert torch.equal(got.weight, layer.weight.T) and torch.equal(got.bias, layer.bias)
    x = torch.randn(2, 4, IN, generator=torch.Generator().manual_seed(1))
    same(got(x), layer(x))


def test_tied_layers_give_the_same_map():
    one, other = made(nn.Linear(IN, OUT, bias=False)), nn.Linear(IN, OUT, bias=False)
    other.weight = one.weight
    assert torch.equal(found(one).weight, found(other).weight)


def test_a_parametrised_layer():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer = made(nn.Linear(IN, OUT))
    stored = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", Doubled())
    same(found(layer).weight, 2 * stored)


@pytest.mark.parametrize("how", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_the_parametrisations_of_torch_in_a_model_that_trains(how):
    layer = how(made(nn.Linear(IN, OUT)))
    layer.train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    got = found(layer)
    assert layer.training and all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    layer.eval()
    x = torch.randn(2, 4, IN, generator=torch.Generator().manual_seed(1))
    same(got(x), layer(x))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_weight_that_a_hook_makes_before_each_call():
    """The old weight_norm: the attribute is stale until the layer runs again."""
    layer = nn.utils.weight_norm(made(nn.Linear(IN, OUT)))
    with torch.no_grad():
        layer.weight_g.mul_(3.0)
    direction = layer.weight_v / layer.weight_v.norm(dim=1, keepdim=True)
    same(found(layer).weight, layer.weight_g * direction)


@pytest.mark.parametrize("training", [False, True])
def test_a_module_of_ones_own_is_asked_and_its_dropout_left_out(training):
    layer = made(Low()).train(training)
    state = torch.random.get_rng_state()
    got = found(layer)
    assert torch.equal(state, torch.random.get_rng_state()) and layer.training is training
    same(got.weight, 0.5 * layer.up @ layer.down)
    same(got.bias, layer.offset)
    assert widths(layer) == (IN, OUT)


def test_a_chain_of_layers_is_one_map():
    layer = nn.Sequential(made(nn.Linear(IN, RANK)), nn.Identity(), made(nn.Linear(RANK, OUT), 1))
    first, _, second = layer
    got = found(layer)
    same(got.weight, second.weight @ first.weight)
    same(got.bias, second.weight @ first.bias + second.bias)


def test_a_hook_on_a_layer_is_part_of_what_it_does():
    layer = made(nn.Linear(IN, OUT))
    layer.register_forward_hook(lambda module, args, out: 3 * out)
    same(found(layer).weight, 3 * layer.weight)


def test_a_forward_put_into_a_layer_is_part_of_what_it_does():
    layer = made(nn.Linear(IN, OUT))
    stored = layer.forward
    layer.forward = lambda x: stored(x).flip(-1)
    same(found(layer).weight, layer.weight.flip(0))


@pytest.mark.parametrize("block", [None, (4, 5)])
def test_codes_in_float8_with_their_scales(block):
    """transformers' layer has no kernel here, so what its scales say stands."""
    layer = FP8Linear(IN, OUT, block_size=block, has_bias=True)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(OUT, IN, generator=generator).to(torch.float8_e4m3fn)
    scales = torch.tensor(0.25) if block is None else torch.rand(3, 3, generator=generator) + 0.5
    bias = torch.randn(OUT, generator=generator)
    layer.weight, layer.weight_scale_inv = nn.Parameter(codes, False), nn.Parameter(scales)
    layer.bias = nn.Parameter(bias)
    got = found(layer)
    expected = torch.tensor(
        [[float(codes[i, j].float() * (scales if block is None else scales[i // 4, j // 5])) for j in range(IN)]
         for i in range(OUT)]
    )  # fmt: skip
    same(got.weight, expected)
    assert torch.equal(got.bias, bias) and got.rounds


class Codes(nn.Module):
    """A layer in the manner of GPTQ: codes of few bits, and a method that gives the weight the other way round."""

    def __init__(self, n_in: int, n_out: int, rounds: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.in_features, self.out_features, self.bias, self.rounds = n_in, n_out, None, rounds
        self.register_buffer("codes", torch.randint(-7, 8, (n_in, n_out), generator=generator, dtype=torch.int8))
        self.register_buffer("scales", torch.rand(n_out, generator=generator) + 0.5)

    def dequantize_weight(self):
        return self.codes * self.scales

    def forward(self, x):
        if self.rounds:  # to 8 bits of a row's largest value
            step = x.abs().amax(-1, keepdim=True) / 127
            x = (x / step).round() * step
        return x @ self.dequantize_weight()


@pytest.mark.parametrize("n_out", [OUT, IN])
@pytest.mark.parametrize("rounds", [False, True])
def test_a_layer_that_gives_its_weight_the_other_way_round(n_out, rounds):
    layer = Codes(IN, n_out, rounds)
    got = found(layer)
    assert torch.equal(got.weight, layer.dequantize_weight().T) and (got.rounds > 0) is rounds


def test_a_wrapper_around_codes_is_asked_with_the_codes_spelled_out():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_layer, self.gate = Codes(IN, OUT, rounds=True), nn.Parameter(torch.rand(OUT) + 0.5)

        def forward(self, x):
            return self.base_layer(x) * self.gate

    layer = made(Scaled())
    got = found(layer)
    expected = layer.base_layer.dequantize_weight().T * layer.gate[:, None]
    same(got.weight, expected)
    assert got.rounds and widths(layer) == (IN, OUT)


class Other(nn.Module):
    """Something that is not linear in what stands at each position."""

    def __init__(self, what) -> None:
        super().__init__()
        self.linear, self.what = made(nn.Linear(IN, OUT, bias=False)), what
        self.in_features, self.out_features = IN, OUT

    def forward(self, x):
        return self.what(self.linear(x))


REFUSED = {
    "a sum does not give the sum|the negative of what it is given": lambda y: y + 0.01 * y.relu(),
    "twice what it is given does not give twice": lambda y: y / y.norm(dim=-1, keepdim=True),
    "the negative of what it is given": lambda y: y.square(),
    "depends on the positions": lambda y: y + y.mean(-2, keepdim=True),
    "something else each time": lambda y: nn.functional.dropout(y, 0.5, training=True),
    "it answers with tuple": lambda y: (y, None),
    "cannot be run by itself .RuntimeError": lambda y: y.view(3, 1, 7, -1),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_linear_is_refused_by_what_shows_it(reason):
    with pytest.raises(InputError, match=rf"'layer' \(.*Other\) is not a linear map: .*({reason})"):
        found(Other(REFUSED[reason]))


def test_a_module_that_does_not_say_how_wide_it_is_and_takes_any_width():
    class Any(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(IN, OUT))

        def forward(self, x):
            return x

    with pytest.raises(InputError, match="how wide its input is cannot be told"):
        found(Any())


def test_a_model_described_without_weights_says_so():
    with pytest.raises(InputError, match=r"needs the weights of 'layer', and the model is described without them"):
        found(nn.Linear(IN, OUT, device="meta"))


@pytest.mark.parametrize(
    "layer, sure, perhaps",
    [
        (nn.Linear(IN, OUT), True, True),
        (Conv1D(OUT, IN), True, True),
        (Codes(IN, OUT), True, True),
        (Low(), False, True),
        (nn.Sequential(nn.Linear(IN, RANK), nn.Linear(RANK, OUT)), False, True),
        (nn.Embedding(OUT, IN), False, False),
        (nn.LayerNorm([RANK, IN]), False, False),
        (nn.Dropout(), False, False),
        (nn.SiLU(), False, False),
        (nn.Identity(), False, False),
        (nn.Conv2d(3, 5, 2), False, False),
    ],
)
def test_which_layers_are_maps_and_which_might_be(layer, sure, perhaps):
    assert (is_linear_layer(layer), may_be_linear(layer)) == (sure, perhaps)

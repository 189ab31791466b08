"""The paper's two controls: noise in place of an update, and noise in place of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lostattn.arguments import checked_call
from lostattn.errors import InputError
from lostattn.interventions.ablation import POINTS
from lostattn.kernels import edits as kernels
from lostattn.plan.checks import (
    Layers,
    Steps,
    checked_layers,
    checked_number,
    checked_seed,
    checked_steps,
    choice,
    normalise,
)
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit
from lostattn.plan.setting import Setting, stable_seed
from lostattn.weights.kinds import may_be_linear
from lostattn.weights.linear_map import linear_map
from lostattn.weights.offload import is_described_only


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class NoiseUpdate(Intervention):
    """Noise Δ: what attention or the FFN adds to the stream is replaced by Gaussian noise.

    Where: at ``hook_attn_out``, ``hook_cross_attn_out`` or ``hook_mlp_out``, of the chosen layers and positions. The
    noise has the mean and standard deviation of the update that it replaces (per item, over all its real positions of
    the pass; at a decoding step that is one row), or mean 0 and standard deviation ``std`` where that is given. Every
    item, layer, update and step draws its own.

    When it is weak: two moments are kept and nothing else, so it is far off the update's own directions; it is a
    control, not a model of a missing component.
    """

    what: str = "attn"
    layers: Layers = None
    positions: Any = "all"
    std: float | int | None = None
    seed: int = 0
    steps: Steps = "all"

    def __post_init__(self) -> None:
        choice("what", self.what, ("attn", "mlp", "cross_attn"))
        normalise(self, layers=checked_layers(self.layers), steps=checked_steps(self.steps))
        normalise(self, seed=checked_seed(self.seed))
        if self.std is not None:
            meaning = "a number >= 0, or None to match what is replaced"
            normalise(self, std=checked_number("std", self.std, 0.0, float("inf"), meaning))

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit for each layer."""
        positions = setting.positions(self.positions)
        real = setting.positions("all")
        out = []
        for i in setting.layers(self.layers, POINTS[self.what]):
            params = {
                "positions": positions,
                "real": real,
                "std": self.std,
                "seeds": setting.seeds(self.seed, "noise", self.what, i),
            }
            out.append(Edit(f"blocks.{i}.{POINTS[self.what]}", kernels.noise_update, params, checked_steps(self.steps)))
        return out


@checked_call
@dataclass(frozen=True, eq=False, repr=False)
class NoiseWeights(Intervention):
    """Noise QKV: each weight matrix is replaced by a Gaussian of its own mean and standard deviation; biases stay.

    It acts inside the pass, on the output of each linear map; the model's own weights are only read. ``"qkv"`` takes
    the query, key and value maps, ``"mlp"`` all maps of the FFN (gate, up and down where it is gated). The same seed
    gives the same weights in every pass and at every step, for all items of a batch.

    The moments are those of what a map multiplies by, adapters and scales included, so a quantised or adapted model
    draws what the same model does once it is dequantised or merged.

    What it assumes: linear maps, one for each of q, k and v. It replaces what the map gives, so an earlier edit of the
    same point is lost under it.
    """

    what: str = "qkv"
    layers: Layers = None
    seed: int = 0
    steps: Steps = "all"

    def __post_init__(self) -> None:
        choice("what", self.what, ("qkv", "mlp"))
        normalise(self, layers=checked_layers(self.layers), steps=checked_steps(self.steps))
        normalise(self, seed=checked_seed(self.seed))

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit for each matrix of each layer.

        Raises:
            InputError: the model's query, key and value come from one fused map, or a layer is no linear map.
        """
        out = []
        steps = checked_steps(self.steps)
        for i in setting.layers(self.layers, "attn.hook_q" if self.what == "qkv" else "hook_mlp_out"):
            for point in self._points(setting, i):
                name = f"blocks.{i}.{point}"
                path = setting.sites.slots[setting.sites.at[setting.sites.find(name)]].path
                params = {"seed": stable_seed(self.seed, "weights", point, i), **_moments(setting, i, path)}
                out.append(Edit(name, kernels.noise_linear, params, steps, reads_input=True))
        return out

    def _points(self, setting: Setting, layer: int) -> list[str]:
        """Where the outputs of the layer's matrices are."""
        block = setting.sites.architecture.stack.blocks[layer]
        if self.what == "mlp":
            return [f"mlp.hook_{kind}" for kind, _ in block.mlp_order] + ["hook_mlp_out"]
        if block.attn is not None and block.attn.qkv is not None:
            raise InputError(f"{block.attn.path} makes q, k and v with one fused map; NoiseWeights needs three.")
        return ["attn.hook_q", "attn.hook_k", "attn.hook_v"]


def _moments(setting: Setting, layer: int, path: str) -> dict[str, Any]:
    """What the draw for a map is made with; nothing where its weights are not here, so that it is asked in the pass."""
    module = setting.model.get_submodule(path)
    whole_ffn = path == setting.sites.architecture.stack.blocks[layer].mlp  # experts, say
    if whole_ffn or not may_be_linear(module):
        raise InputError(f"{path} is a {type(module).__name__}; NoiseWeights needs a linear map there.")
    if is_described_only(setting.model):
        return {}
    found = linear_map(setting.model, path)
    weight = found.weight.float()
    mean, spread = float(weight.mean()), float(weight.std(correction=0))
    return {"shape": list(weight.shape), "mean": mean, "spread": spread, "bias": found.bias}

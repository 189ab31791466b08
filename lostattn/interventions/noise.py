"""The paper's two controls: noise in place of an update, and noise in place of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lostattn.errors import InputError
from lostattn.interventions.ablation import POINTS
from lostattn.interventions.base import Intervention, Layers, Steps, checked_layers, checked_steps, choice
from lostattn.interventions.setting import stable_seed
from lostattn.kernels import edits as kernels
from lostattn.plan import Edit

if TYPE_CHECKING:
    from lostattn.interventions.setting import Setting


@dataclass(frozen=True, eq=False)
class NoiseUpdate(Intervention):
    """Noise Δ: what attention or the FFN adds to the stream is replaced by Gaussian noise.

    The noise has the mean and standard deviation of the update that it replaces (per item, over its real positions),
    or mean 0 and standard deviation ``std`` where that is given.
    """

    what: str = "attn"
    layers: Layers = None
    positions: Any = "all"
    std: float | None = None
    seed: int = 0
    steps: Steps = "all"

    def __post_init__(self) -> None:
        choice("what", self.what, ("attn", "mlp"))
        object.__setattr__(self, "layers", checked_layers(self.layers))
        object.__setattr__(self, "steps", checked_steps(self.steps))
        if self.std is not None and not self.std >= 0:
            raise InputError(f"std is {self.std!r}; expected a number >= 0, or None to match what is replaced.")

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit for each layer."""
        positions = setting.positions(self.positions)
        real = setting.positions("all")
        out = []
        for i in setting.layers(self.layers):
            params = {
                "positions": positions,
                "real": real,
                "std": self.std,
                "seeds": setting.seeds(self.seed, "noise", self.what, i),
            }
            out.append(Edit(f"blocks.{i}.{POINTS[self.what]}", kernels.noise_update, params, checked_steps(self.steps)))
        return out


@dataclass(frozen=True, eq=False)
class NoiseWeights(Intervention):
    """Noise QKV: each weight matrix is replaced by a Gaussian of its own mean and standard deviation; biases stay.

    It acts inside the pass, on the output of each linear map; the model's own weights are only read. ``"qkv"`` takes
    the query, key and value maps, ``"mlp"`` all maps of the FFN. The same seed gives the same weights in every pass
    and at every step.
    """

    what: str = "qkv"
    layers: Layers = None
    seed: int = 0
    steps: Steps = "all"

    def __post_init__(self) -> None:
        choice("what", self.what, ("qkv", "mlp"))
        object.__setattr__(self, "layers", checked_layers(self.layers))
        object.__setattr__(self, "steps", checked_steps(self.steps))

    def compile(self, setting: Setting) -> list[Edit]:
        """One edit for each matrix of each layer.

        Raises:
            InputError: the model's query, key and value come from one fused map.
        """
        out = []
        for i in setting.layers(self.layers):
            block = setting.sites.architecture.stack.blocks[i]
            if self.what == "qkv":
                if block.attn.q is None:
                    raise InputError(
                        f"{block.attn.path} makes q, k and v with one fused map; NoiseWeights needs three."
                    )
                points = ["attn.hook_q", "attn.hook_k", "attn.hook_v"]
            else:
                points = [f"mlp.hook_{kind}" for kind, _ in block.mlp_order] + ["hook_mlp_out"]
            for point in points:
                seed = stable_seed(self.seed, "weights", point, i)
                kernel = kernels.noise_linear
                out.append(
                    Edit(f"blocks.{i}.{point}", kernel, {"seed": seed}, checked_steps(self.steps), reads_input=True)
                )
        return out

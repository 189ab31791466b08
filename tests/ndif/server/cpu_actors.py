"""The two classes with which an unmodified NDIF serves models from the CPU; chosen through its NDIF_* settings."""

from __future__ import annotations

import functools

import ray
import torch
import warm_runners
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.sandbox.model import DEFAULT_POOL_SIZE, SandboxModelDeployment
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import Remotable

if not torch.cuda.is_available():
    torch.cuda.synchronize = lambda *_, **__: None  # the server waits for a device that is not there


class OnCpu:
    """Loading without a card. Ray sends an actor's own class by value; this one is imported where the actor runs."""

    CACHEABLE = False

    def load_from_disk(self) -> HuggingFaceModel:
        """The weights, wherever there is memory: there is no card to put them on."""
        options = {name: value for name, value in self.kwargs.items() if name != "trust_remote_code"}
        model = HuggingFaceModel.from_model_key(self.model_key, dispatch=True, dtype=self.dtype_name, **options)
        model._module.requires_grad_(False)
        return model


@ray.remote(num_cpus=1, max_restarts=-1)
class ModelActor(OnCpu, SandboxModelDeployment):
    """A model on the CPU: what is trusted runs beside it, what is not in a runner of its own, as on the service."""

    def open_pool(self, pool_size: int | None = None, peers: int = 1) -> None:
        """The pool of runners, whose Python is one that begins quickly."""
        super().open_pool(0, peers)
        self.pool.python = warm_runners.__file__
        self.pool.size = DEFAULT_POOL_SIZE if pool_size is None else pool_size
        for _ in range(self.pool.size):
            self.pool.refill()


def _without_trust_remote_code(name: str) -> None:
    """This server hands ``trust_remote_code`` to a question whose nnsight reads it from the model's key."""
    asked = getattr(Remotable, name).__func__

    @functools.wraps(asked)
    def ask(cls, *arguments, trust_remote_code=None, **keywords):
        return asked(cls, *arguments, **keywords)

    setattr(Remotable, name, classmethod(ask))


@ray.remote(num_cpus=1, num_gpus=0, max_restarts=-1, resources={"head": 1})
class ControllerActor(_ControllerActor):
    """The controller, which asks nnsight about checkpoints."""

    def __init__(self, *arguments, **keywords) -> None:
        for name in ("describe_checkpoint", "max_tp_size"):
            _without_trust_remote_code(name)
        super().__init__(*arguments, **keywords)

"""Interventions: values that say where they act and how; ``a + b`` composes them."""

from __future__ import annotations

from lostattn.interventions.ablation import Ablate
from lostattn.interventions.attention import KnockOut, Released, ReplaceAttention, ScaleAttention
from lostattn.interventions.noise import NoiseUpdate, NoiseWeights
from lostattn.interventions.patching import Patch
from lostattn.interventions.picture_sources import Complexity, VisionPrior
from lostattn.interventions.projection import EarlyProjection
from lostattn.interventions.rotary import RemoveRotary
from lostattn.interventions.sources import Dirichlet, Fixed, FromCache, Gaussian, Source, Uniform
from lostattn.interventions.steering import Steer
from lostattn.plan.intervention import Composition, Intervention

__all__ = [
    "Ablate",
    "Complexity",
    "Composition",
    "Dirichlet",
    "EarlyProjection",
    "Fixed",
    "FromCache",
    "Gaussian",
    "Intervention",
    "KnockOut",
    "NoiseUpdate",
    "NoiseWeights",
    "Patch",
    "Released",
    "RemoveRotary",
    "ReplaceAttention",
    "ScaleAttention",
    "Source",
    "Steer",
    "Uniform",
    "VisionPrior",
]

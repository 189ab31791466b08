"""Activation patching between two prompts that may differ in their picture alone.

>>> table = la.patching.sweep(model, clean, corrupted, metric, points="resid_pre", positions="each")  # doctest: +SKIP
>>> table.pivot(index="layer", columns="positions", values="normalised")                              # doctest: +SKIP
>>> other = la.patching.corrupt(question, "blur", radius=8)                                           # doctest: +SKIP
>>> other = la.patching.recolour_object(question)                                                     # doctest: +SKIP
"""

from __future__ import annotations

from lostattn.interventions.patching import Patch
from lostattn.patching.agreement import agreement
from lostattn.patching.attribution import attribute
from lostattn.patching.corruptions import another_scene, blank, blur, corrupt, cover, mask_patches, noise
from lostattn.patching.objects import recolour_object, remove_object
from lostattn.patching.paths import path_patch
from lostattn.patching.sweeps import sweep

__all__ = [
    "Patch",
    "agreement",
    "another_scene",
    "attribute",
    "blank",
    "blur",
    "corrupt",
    "cover",
    "mask_patches",
    "noise",
    "path_patch",
    "recolour_object",
    "remove_object",
    "sweep",
]

"""Lenses: what the stream, each head and each patch say about the answer.

>>> la.lenses.logit_lens(cache, positions="last").table(model)            # doctest: +SKIP
>>> la.lenses.direct_attribution(cache, right, wrong, by="head")          # doctest: +SKIP
>>> la.lenses.image_attribution(cache, right).figure(layer=3, head=2)     # doctest: +SKIP
>>> la.lenses.vision_lens(model, prompt)                                  # doctest: +SKIP
"""

from __future__ import annotations

from lostattn.cache.logit_lens import Readout, logit_lens
from lostattn.interventions.projection import EarlyProjection
from lostattn.lenses.attribution import direct_attribution
from lostattn.lenses.image_attribution import ImageAttribution, image_attribution
from lostattn.lenses.inputs import input_attribution, input_figure
from lostattn.lenses.vision import vision_lens

__all__ = [
    "EarlyProjection",
    "ImageAttribution",
    "Readout",
    "direct_attribution",
    "image_attribution",
    "input_attribution",
    "input_figure",
    "logit_lens",
    "vision_lens",
]

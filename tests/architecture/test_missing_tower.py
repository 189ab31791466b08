"""What is said of models in which no vision tower with attention was found: what their pictures go through instead."""

from __future__ import annotations

import pytest
from torch import nn

from lostattn.architecture import resolve
from lostattn.architecture.missing_tower import why_no_tower
from lostattn.conformance.models import build
from lostattn.errors import UnknownName
from lostattn.points.sites import Sites

INTERFACE = "transformers' attention interface."
SAID = {
    "fuyu": "Patches are projected straight into the stream, by 'model.vision_embed_tokens' (Linear).",
    "gemma4_unified": (
        "Patches are projected straight into the stream, by 'model.embed_vision' (Gemma4UnifiedVisionEmbedder)."
    ),
    "chameleon": (
        "Pictures become discrete codes through 'model.vqmodel' (ChameleonVQVAE), and their tokens are embeddings of "
        "these codes."
    ),
    "got_ocr2": (
        "The attention of 'model.vision_tower' (GotOcr2VisionEncoder) is computed in GotOcr2VisionAttention itself and "
        f"not through {INTERFACE}"
    ),
    "mistral4": "",
}


@pytest.mark.parametrize("family", SAID)
def test_what_pictures_go_through_instead(family: str) -> None:
    found = resolve(build(family, "eager"))
    assert found.vision is None and found.no_vision == SAID[family]
    if SAID[family]:
        with pytest.raises(UnknownName) as raised:
            Sites(found).find("vision_encoder.blocks.0.attn.hook_pattern")
        assert SAID[family] in str(raised.value)


class TimmWrapperModel(nn.Module):
    """Named as transformers names what it wraps timm's models in; timm is not installed here."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"architecture": "vit_tiny"})()
        self.timm_model = nn.Linear(2, 2)


class PlainVisionModel(nn.Sequential):
    """A tower of linear maps alone, as Inkling's."""


def test_a_tower_without_attention_says_so() -> None:
    model = nn.ModuleDict({"vision_tower": PlainVisionModel(nn.Linear(2, 2)), "language_model": nn.Linear(2, 2)})
    assert why_no_tower(model) == "'vision_tower' (PlainVisionModel) holds no attention."


def test_a_tower_of_timm_is_named_with_its_architecture() -> None:
    model = nn.ModuleDict({"vision_tower": TimmWrapperModel(), "language_model": nn.Linear(2, 2)})
    assert why_no_tower(model) == (
        f"'vision_tower' is a model of timm (vit_tiny): what attention it has is not made through {INTERFACE}"
    )
    assert why_no_tower(nn.ModuleDict({"language_model": nn.Linear(2, 2)})) == ""

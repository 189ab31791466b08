"""Attention without rotary positions, against bare models whose rotation is taken out of their modeling files."""

from __future__ import annotations

import importlib

import bounds
import edit_reference as reference
import pytest

import lostattn as la


@pytest.mark.parametrize("layers", [None, [1, -2]], ids=str)
def test_queries_and_keys_as_they_were(pair, layers, monkeypatch):
    rotated = pair.hf.model.language_model.layers[0].self_attn
    module = importlib.import_module(type(rotated).__module__)
    own = module.apply_rotary_pos_emb
    seen = []

    def rotate(q, k, *given, **named):
        seen.append(len(seen))
        return (q, k) if layers is None or seen[-1] in (1, 4) else own(q, k, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, "apply_rotary_pos_emb", rotate)
        want = reference.logits(pair.hf, pair.batch)
    assert len(seen) == 6  # once a layer
    got = pair.model.run_with_hooks(pair.batch, interventions=la.RemoveRotary(layers))
    real = pair.batch.token_map["all"]
    bounds.close(got[real], want[real], pair.share)
    assert bounds.moved(got[real], pair.model(pair.batch)[real], pair.share)

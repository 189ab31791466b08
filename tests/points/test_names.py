"""The hook-name grammar: TransformerLens' shorthand, aliases, order, and what an unknown name is told."""

from __future__ import annotations

import itertools
import re

import pytest
from tiny import FAMILIES, wrapped

from lostattn.errors import InputError, UnknownName
from lostattn.points.names import (
    BLOCK_ALIASES,
    BLOCK_HOOKS,
    ONE_OF_SEVERAL_READERS,
    OUTER_ALIASES,
    VISION_ALIASES,
    canonical,
    get_act_name,
    split_block,
)

SHORT = (
    *("embed", "unembed", "pos_embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"),
    *("q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores", "attn", "attn_logits"),
    *("key", "query", "value", "mlp_pre", "mlp_mid", "mlp_post", "pre", "post", "mid"),
    *("scale", "normalized", "k6", "pattern3", "resid_post11", "scale4ln1", "normalized2ln2", "pre5l1"),
    *("blocks.2.attn.hook_q", "hook_embed", "ln_final.hook_normalized", "hook_resid_pre"),
)
LAYERS = (None, 0, 3, 11, -1)
TYPES = (None, "a", "attn", "attention", "m", "mlp", "b", "block", "blocks", "ln1", "ln2", "ln_final")


def test_shorthand_equals_transformer_lens_everywhere():
    from transformer_lens.utilities import get_act_name as theirs

    grid = list(itertools.product(SHORT, LAYERS, TYPES))
    wrong = [(args, get_act_name(*args), theirs(*args)) for args in grid if get_act_name(*args) != theirs(*args)]
    assert len(grid) > 2000
    assert wrong == []


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (("k", 6), "blocks.6.attn.hook_k"),
        (("pattern3",), "blocks.3.attn.hook_pattern"),
        (("resid_post", -1), "blocks.-1.hook_resid_post"),
        (("normalized", 27, "ln2"), "blocks.27.ln2.hook_normalized"),
        (("scale4ln1",), "blocks.4.ln1.hook_scale"),
        (("mlp_post", 2), "blocks.2.mlp.hook_post"),
        (("embed",), "hook_embed"),
    ],
)
def test_shorthand_written_out(args, name):
    assert get_act_name(*args) == name


def test_every_alias_leads_to_a_canonical_name():
    inside = [*BLOCK_ALIASES.values(), *VISION_ALIASES.values()]
    assert set(inside) <= set(BLOCK_HOOKS)
    assert not set(BLOCK_ALIASES) & set(BLOCK_HOOKS)
    assert not set(OUTER_ALIASES) & set(OUTER_ALIASES.values())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("blocks.-1.attn.o.hook_in", "blocks.6.attn.hook_z"),
        ("blocks.2.hook_out", "blocks.2.hook_resid_post"),
        ("vision_encoder.encoder_layers.-2.attn.hook_out", "vision_encoder.blocks.3.hook_attn_out"),
        ("vision_encoder.blocks.1.norm2.hook_out", "vision_encoder.blocks.1.ln2.hook_out"),
        ("vision_encoder.blocks.1.hook_mlp_in", "vision_encoder.blocks.1.ln2.hook_out"),
        ("embed.hook_out", "hook_embed"),
        ("nothing.like.this", "nothing.like.this"),
        # TransformerLens means the stream before the norm by this one in a decoder: no alias of what comes after.
        ("blocks.1.hook_mlp_in", "blocks.1.hook_mlp_in"),
    ],
)
def test_canonical(name, key):
    assert canonical(name, n_layers=7, n_vision_layers=5) == key


def test_split_block():
    assert split_block("vision_encoder.encoder_layers.12.attn.hook_q") == (
        "vision_encoder.encoder_layers",
        12,
        "attn.hook_q",
    )
    assert split_block("blocks.-3.hook_in") == ("blocks", -3, "hook_in")
    assert split_block("ln_final.hook_out") is None


@pytest.mark.parametrize("family", FAMILIES)
def test_canonical_names_stand_for_themselves(family):
    model = wrapped(family)
    assert len(set(model.hook_names)) == len(model.hook_names) > 160
    assert [model.sites.find(name) for name in model.hook_names] == list(model.hook_names)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_offer_their_points_in_forward_order(family):
    model = wrapped(family)
    offered = [n.removeprefix("blocks.1.") for n in model.hook_names if n.startswith("blocks.1.")]
    derived = {"hook_scale", "hook_normalized", "attn_scores", "pattern", "result"}
    real = [n for n in offered if not n.endswith(tuple(derived))]
    assert real == [n for n in BLOCK_HOOKS if n in real]
    beside = {name for name in BLOCK_HOOKS if "cross" in name or name.startswith("ln3")}  # no encoder stands beside
    assert set(offered) == set(BLOCK_HOOKS) - beside - {"hook_between"}  # nothing is added between these layers


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (("cross_pattern", 3), "blocks.3.cross_attn.hook_pattern"),
        (("pattern", 3, "cross_attn"), "blocks.3.cross_attn.hook_pattern"),
        (("pattern", 3, "cross"), "blocks.3.cross_attn.hook_pattern"),
        (("cross_attn_scores", 0), "blocks.0.cross_attn.hook_attn_scores"),
        (("cross_z", 1), "blocks.1.cross_attn.hook_z"),
        (("cross_attn_out", 2), "blocks.2.hook_cross_attn_out"),
        (("resid_mid_cross", 2), "blocks.2.hook_resid_mid_cross"),
        (("normalized", 2, "ln3"), "blocks.2.ln3.hook_normalized"),
        (("pattern", 3, "attn"), "blocks.3.attn.hook_pattern"),
    ],
)
def test_points_of_cross_attention_have_a_shorthand(short, long):
    assert get_act_name(*short) == long


def test_aliases_of_the_ffn_follow_its_kind():
    gated, plain = wrapped("qwen").sites, wrapped("llava").sites
    assert gated.find("vision_encoder.blocks.0.mlp.in.hook_out") == "vision_encoder.blocks.0.mlp.hook_pre_linear"
    assert (
        plain.find("vision_encoder.encoder_layers.0.mlp.in.hook_out") == "vision_encoder.encoder_layers.0.mlp.hook_pre"
    )
    with pytest.raises(UnknownName):
        plain.find("vision_encoder.encoder_layers.0.mlp.hook_pre_linear")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "blocks.1.attn.hook_patern",
            r"no hook point is called 'blocks.1.attn.hook_patern'. Did you mean 'blocks.1.att",
        ),
        ("hook_unembedd", r"Did you mean 'hook_unembed'"),
        (
            "blocks.4.hook_resid_pre",
            r"layer 4 is out of range; blocks has 4 layers \(0 to 3, or negative from the end\)",
        ),
        ("resid_pre-9", r"no hook point is called"),
        ("blocks.-5.hook_resid_pre", r"layer -1 is out of range"),
        ("vision_encoder.encoder_layers.3.hook_in", r"vision_encoder.encoder_layers has 3 layers"),
    ],
)
def test_unknown_names_are_told_what_exists(name, message):
    with pytest.raises(UnknownName, match=message):
        wrapped("llava").sites.find(name)


def test_an_unknown_name_is_a_key_error_with_a_readable_message():
    with pytest.raises(KeyError) as caught:
        wrapped("llava").sites.find("hook_unembedd")
    assert str(caught.value).startswith("no hook point is called 'hook_unembedd'.")


def test_names_filters():
    sites = wrapped("qwen").sites
    assert sites.match(None) == sites.names
    assert sites.match("pattern1") == ("blocks.1.attn.hook_pattern",)
    # Whatever the order and the spelling, the answer is canonical, in forward order, each name once.
    assert sites.match(["hook_unembed", "blocks.1.hook_in", "pattern1", "embed"]) == (
        "hook_embed",
        "blocks.1.hook_resid_pre",
        "blocks.1.attn.hook_pattern",
        "hook_unembed",
    )
    assert sites.match(lambda name: name.endswith("hook_z")) == (
        *(f"vision_encoder.blocks.{i}.attn.hook_z" for i in range(4)),
        *(f"blocks.{i}.attn.hook_z" for i in range(3)),
    )
    with pytest.raises(UnknownName, match="Did you mean"):
        sites.match(["hook_unembed", "hook_embd"])


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        (
            "llava",
            "blocks.1.ln1.hook_scale",
            "can be read but not edited: the model never holds it. Edit 'blocks.1.ln1.h",
        ),
        ("llava", "ln_final.hook_normalized", "Edit 'ln_final.hook_out' instead"),
        ("llava", "blocks.0.attn.hook_result", "Edit 'blocks.0.attn.hook_z' instead"),
        ("llava", "vision_encoder.hook_vision_out", "Edit 'vision_projector.hook_in' instead"),
        (
            "llava",
            "vision_encoder.encoder_layers.2.attn.hook_pattern",
            "comes after the layer whose output this model reads: an edit there would change nothing. "
            "The decoder sees vision layers 0 to 1.",
        ),
        ("qwen", "vision_encoder.blocks.0.attn.hook_rot_q", "Edit 'vision_encoder.blocks.0.attn.hook_q' instead"),
    ],
)
def test_what_cannot_be_edited_is_refused(family, name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        wrapped(family).sites.editable(name)


@pytest.mark.parametrize("point", ONE_OF_SEVERAL_READERS)
def test_a_reader_cannot_be_edited_without_the_others(point):
    # TransformerBridge would edit what this one reader sees; the canonical point feeds all of them.
    stack = "vision_encoder.blocks" if point.startswith("norm") else "blocks"
    with pytest.raises(InputError, match="is one of several readers of .* Edit .*, for all of them"):
        wrapped("qwen").sites.editable(f"{stack}.1.{point}")

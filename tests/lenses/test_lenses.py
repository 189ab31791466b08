"""Lenses against written-out definitions: rows of logits, sums over patches, early projections by hand."""

from __future__ import annotations

import bounds
import pytest
import torch
from bounds import close
from tiny import FAMILIES, INPUTS, bare, batched, rounding, unequal, wrapped

from lostattn import lenses
from lostattn.answers import answer_probability, answer_tokens, logit_difference
from lostattn.errors import InputError
from lostattn.interventions.ablation import Ablate
from lostattn.interventions.attention import ReplaceAttention
from lostattn.interventions.sources import Gaussian


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def share(family):
    """A lens goes through the same norm and products as the model, and adds up in another order."""
    return rounding(family)


@pytest.fixture(scope="module")
def run(family):
    """``(model, prompt, logits, cache)`` of three prompts of unequal lengths."""
    model = wrapped(family)
    prompt = model.prompt(inputs=batched(family, unequal(family)))
    return model, prompt, *model.run_with_cache(prompt)


def test_the_last_row_of_the_lens_is_the_model(run, share: float) -> None:
    model, _, logits, cache = run
    found = cache.logit_lens()
    assert found.labels == (*(f"{i}_pre" for i in range(model.cfg.n_layers)), "final_post")
    close(found.logits[-1], logits[:, -1:], share)
    close(found.probabilities[-1], logits[:, -1:].softmax(-1), share, size=logits)
    norm = model.hf.get_submodule(model.architecture.final_norm)
    by_hand = norm(cache["resid_pre", 2][:, -1:]) @ model.hf.get_output_embeddings().weight.T
    close(found.logits[2], by_hand, share)


def test_some_streams_and_tokens_alone(run, share: float) -> None:
    _, _, _, cache = run
    whole = lenses.logit_lens(cache, [-2, -1], incl_mid=True)
    part = lenses.logit_lens(cache, [-2, -1], ["1_mid", "final_post"], incl_mid=True, tokens=[3, 50])
    at = whole.labels.index("1_mid")
    close(part.logits[0], whole.logits[at][..., [3, 50]], share)
    close(part.probabilities[0], whole.probabilities[at][..., [3, 50]], share, size=whole.logits[at])
    best = whole.logits[at].argmax(-1)
    assert (whole.rank(int(best[0, 0]))[at, 0, 0] == 0).all()
    order = whole.logits[at, 1, 1].argsort(descending=True)
    assert whole.rank(int(order[6]))[at, 1, 1] == 6
    with pytest.raises(InputError, match="kept only some tokens"):
        part.rank(3)
    with pytest.raises(InputError, match="no stream is called '1_mdi'.*Did you mean"):
        lenses.logit_lens(cache, "last", ["1_mdi"], incl_mid=True)
    with pytest.raises(InputError, match="expected ids from 0 to"):
        lenses.logit_lens(cache, tokens=[-1])


@pytest.mark.parametrize("by", ["layer", "head"])
def test_direct_attributions_add_up_to_a_difference_of_logits(run, by: str, share: float) -> None:
    _, _, logits, cache = run
    right, wrong = torch.tensor([3, 17, 29]), torch.tensor([40, 41, 42])
    table = lenses.direct_attribution(cache, right, wrong, by=by)
    expected = logit_difference(logits, right, wrong)
    size = table.logit.abs().groupby(table["item"]).sum()
    close(table.groupby("item").logit.sum(), expected.double(), share, size=size)
    if by == "head":
        heads, names = cache.stack_head_results(pos_slice=-1, return_labels=True)
        value = cache.logit_attrs(heads, right, wrong, pos_slice=-1)[names.index("L1H2"), 2]
        row = table[(table.layer == 1) & (table["head"] == 2) & (table.item == 2)]
        close(row.logit.item(), value, share, size=table.logit)
    with pytest.raises(InputError, match="by is 'neuron'"):
        lenses.direct_attribution(cache, right, by="neuron")


@pytest.mark.parametrize("item", [0, 1, 2])
def test_the_keys_of_a_head_add_up_to_the_head(run, item: int, share: float) -> None:
    """Patches and other positions together are the head's own attribution, for every query head."""
    model, prompt, _, cache = run
    right, wrong = torch.tensor([3, 17, 29]), torch.tensor([40, 41, 42])
    found = lenses.image_attribution(cache, right, wrong, item=item)
    heads = cache.logit_attrs(cache.stack_head_results(pos_slice=-1), right, wrong, pos_slice=-1)[:, item]
    close(found.values.sum(-1).flatten(), heads, share, size=found.values.abs().sum(-1))
    table = found.by_part()
    assert set(table.part) >= {"image"} and "padding" not in set(table.part)
    one = table[(table.layer == 1) & (table["head"] == 2)]
    size = found.values[1, 2].abs().sum()
    close(one.logit.sum(), found.values[1, 2].sum(), share, size=size)
    image = one[one.part == "image"].logit.item()
    close(found.patches(layer=1, head=2).sum(), image, share, size=size)
    total = sum(float(found.patches(i, h).sum()) for i in found.layers for h in range(model.cfg.n_heads))
    close(found.patches().sum(), total, share, size=found.values.abs().sum())


def test_one_patch_by_hand(run) -> None:
    """A single number, written out: weight × value × output map × norm × unembedding."""
    model, prompt, _, cache = run
    layer, head, item, token = 1, 3, 2, 29
    place = int(prompt.token_map["image"][item].nonzero()[5])
    d, groups = model.cfg.d_head, model.cfg.n_heads // model.cfg.n_key_value_heads
    o = model.hf.get_submodule(model.architecture.stack.blocks[layer].attn.o).weight
    value = cache["v", layer][item, place, head // groups]
    written = o[:, head * d : (head + 1) * d] @ value * cache["pattern", layer][item, head, -1, place]
    norm = model.hf.get_submodule(model.architecture.final_norm)
    scale = cache["ln_final.hook_scale"][item, -1]
    by_hand = (written / scale * norm.weight) @ model.hf.get_output_embeddings().weight[token]
    found = lenses.image_attribution(cache, token, item=item, layers=[layer])
    # Five products after each other, each of sums over the stream or a head, whose terms cancel.
    size = (o[:, head * d : (head + 1) * d].abs() @ value.abs()) * cache["pattern", layer][item, head, -1, place]
    size = (size / scale * norm.weight.abs()) @ model.hf.get_output_embeddings().weight[token].abs()
    close(found.values[0, head, place], by_hand, bounds.sums(model.cfg.d_model), size=size)
    patch = int(prompt.token_map.patch_index[item, place])
    close(found.patches(layer, head)[patch], by_hand, bounds.sums(model.cfg.d_model), size=size)


def test_edited_attention_is_attributed_as_edited(run, share: float) -> None:
    model, prompt, _, _ = run
    edit = ReplaceAttention(Gaussian(seed=1), layers=[1])
    _, cache = model.run_with_cache(prompt, interventions=edit)
    found = lenses.image_attribution(cache, 5, layers=1)
    heads = cache.logit_attrs(cache.stack_head_results(2, pos_slice=-1), 5, pos_slice=-1)[model.cfg.n_heads :, 0]
    close(found.values.sum(-1)[0], heads, share, size=found.values.abs().sum(-1))


def test_bad_places_are_refused(run) -> None:
    _, _, _, cache = run
    with pytest.raises(InputError, match="item is 3; the cache holds 3 items"):
        lenses.image_attribution(cache, 5, item=3)
    with pytest.raises(InputError, match="names 3 positions; expected one|names .* positions; expected one"):
        lenses.image_attribution(cache, 5, position="text")
    with pytest.raises(InputError, match=r"layers is \[9\]; the model has layers 0 to"):
        lenses.image_attribution(cache, 5, layers=9)
    found = lenses.image_attribution(cache, 5, layers=[1])
    with pytest.raises(InputError, match=r"layer is 0; the attribution holds layers \[1\]"):
        found.patches(layer=0)
    with pytest.raises(InputError, match="head is 17; expected 0 to"):
        found.patches(head=17)
    with pytest.raises(InputError, match="image is 1; item 0 holds 1 images"):
        found.patches(image=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vision_lens_reads_what_the_decoder_is_handed(family: str) -> None:
    model = wrapped(family)
    inputs = INPUTS[family]()
    found = lenses.vision_lens(model, model.prompt(inputs=inputs), layers=None)
    n = model.architecture.vision.n_read
    assert found.labels == (*(f"vision_{i}_post" for i in range(n)), "projected")
    hf = bare(family)
    with torch.no_grad():
        extra = {"image_grid_thw": inputs["image_grid_thw"]} if family == "qwen" else {}
        features = hf.get_image_features(inputs["pixel_values"], **extra).pooler_output
        features = torch.cat(list(features)) if isinstance(features, list | tuple) else features.flatten(0, 1)
        norm = hf.get_submodule(model.architecture.final_norm)
        by_hand = hf.get_output_embeddings()(norm(features))
    close(found.logits[-1], by_hand, rounding(family))
    # The last layer that is read is what the projector reads anyway; an earlier one is not.
    close(found.logits[n - 1], found.logits[-1], rounding(family))
    assert (found.logits[0] - found.logits[-1]).abs().max() > 0.1
    shipped = lenses.vision_lens(model, model.prompt(inputs=inputs), layers=[0], remote="local")
    close(shipped.logits, found.logits[[0, -1]], rounding(family))


def test_an_early_projection_outside_the_tower_is_refused() -> None:
    model = wrapped("llava")
    prompt = model.prompt(inputs=INPUTS["llava"]())
    with pytest.raises(InputError, match="layer is 2; the decoder depends on vision layers 0 to 1"):
        model.run_with_cache(prompt, "hook_embed", interventions=lenses.EarlyProjection(2))
    with pytest.raises(InputError, match="item 1 or its image 0 is not there"):
        lenses.vision_lens(model, prompt, item=1)


def test_on_the_trained_models(tiny_model, shapes_questions) -> None:
    """Tables of words, a figure, and answers as the template writes them."""
    question = next(q for q in shapes_questions if q.kind == "colour")
    right = answer_tokens(tiny_model, question)
    decoded = tiny_model.processor.tokenizer.decode(right)
    assert decoded.strip() == question.answer
    wrong = answer_tokens(tiny_model, question, next(c for c in question.choices if c != question.answer))
    prompt = tiny_model.prompt(question)
    logits, cache = tiny_model.run_with_cache(prompt)
    assert float(answer_probability(logits, right)) == pytest.approx(
        float(logits[0, -1].softmax(-1)[right]), rel=bounds.sums(logits.shape[-1])
    )
    table = lenses.logit_lens(cache).table(tiny_model, k=2)
    final = table[(table.stream == "final_post") & (table["rank"] == 0)]
    assert final.token.item() == int(logits[0, -1].argmax())
    found = lenses.image_attribution(cache, right, wrong)
    grid = prompt.token_map.grids[0][0]
    assert found.patches().shape == (len(grid),)
    figure = found.figure(layer=3, head=2)
    assert "layer 3, head 2" in figure._suptitle.get_text()
    words = lenses.vision_lens(tiny_model, prompt).table(tiny_model, k=1)
    assert len(words) == len(grid)


def test_answers_must_be_said(tiny_llava, shapes_questions) -> None:
    with pytest.raises(InputError, match="give one text for each"):
        answer_tokens(tiny_llava, list(shapes_questions[:2]), ["red"])
    with pytest.raises(InputError, match="give one text for each"):
        answer_tokens(tiny_llava, shapes_questions[0], " ")


def test_ablating_a_head_takes_its_attribution_away(run, share: float) -> None:
    model, prompt, _, cache = run
    _, without = model.run_with_cache(prompt, interventions=Ablate("head", layers=[1], heads=[2]))
    before = cache.logit_attrs(cache.stack_head_results(pos_slice=-1), 7, pos_slice=-1)
    after = without.logit_attrs(without.stack_head_results(pos_slice=-1), 7, pos_slice=-1)
    n = model.cfg.n_heads
    assert (after[n + 2] == 0).all()
    others = [h for h in range(2 * n) if h != n + 2]
    # Heads of the same layer and before keep what they wrote, but for the final norm's scale.
    ratio = without["ln_final.hook_scale"][:, -1, 0] / cache["ln_final.hook_scale"][:, -1, 0]
    close(after[others] * ratio, before[others], share)

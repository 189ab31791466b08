"""Words of a prompt and the positions at which they stand, against positions counted by hand."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import lostattn as la
from lostattn.errors import InputError, UnknownName
from lostattn.prompt.token_ids import token_text
from lostattn.prompt.words import occurrences

SAID = ["<s>", "<image>", "<image>", "\n", "Is", " a", " red", " cir", "cle", " left", " of", " the", " Circle", "?"]
TEXT = [one != "<image>" for one in SAID]


def test_occurrences_are_those_counted_by_hand() -> None:
    assert occurrences(SAID, TEXT, "circle") == [[7, 8], [12]]
    assert occurrences(SAID, TEXT, "Circle", case=True) == [[12]]
    assert occurrences(SAID, TEXT, " red  circle ") == [[6, 7, 8]]
    assert occurrences(SAID, TEXT, "is") == [[4]]
    assert occurrences(SAID, TEXT, "circle?") == [[12, 13]]
    assert occurrences(SAID, TEXT, "?") == [[13]]
    for word in ("cir", "a red circ", "e", "circles"):
        with pytest.raises(UnknownName, match=f"the text has no word '{word}'"):
            occurrences(SAID, TEXT, word)
    with pytest.raises(UnknownName, match="no word 'cirlce'. Did you mean 'circle'"):
        occurrences(SAID, TEXT, "cirlce")


def test_no_word_reaches_over_a_picture() -> None:
    strings = ["two", "<image>", "tone", " two", "tone"]
    assert occurrences(strings, [s != "<image>" for s in strings], "twotone") == [[3, 4]]


def test_letters_that_share_a_token_with_others_and_scripts_without_blanks() -> None:
    assert occurrences([" (red", "-", "blue", ")."], [True] * 4, "red") == [[0]]
    assert occurrences(["图中", "有红", "色圆", "形吗"], [True] * 4, "红色") == [[1, 2]]
    assert occurrences(["Zeige", " das", " grö", "ßte", " Feld"], [True] * 5, "größte") == [[2, 3]]


def test_pieces_without_blanks_are_words() -> None:
    """WordPiece marks what goes on with a word and has no blanks."""
    strings = ["[CLS]", "a", "red", "cir", "##cle", "here"]
    assert occurrences(strings, [True] * 6, "red circle") == [[2, 3, 4]]
    with pytest.raises(UnknownName):
        occurrences(strings, [True] * 6, "cir")


def test_a_token_has_its_blank_where_the_tokenizer_leaves_it_out() -> None:
    """SentencePiece drops the blank before a token that is decoded by itself."""
    words = {"<unk>": 0, "▁a": 1, "▁red": 2, "▁cir": 3, "cle": 4, "▁": 5}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    assert tokenizer.decode([2]) == "red"
    strings = [token_text(tokenizer, i) for i in (1, 2, 3, 4)]
    assert strings == [" a", " red", " cir", "cle"]
    assert occurrences(strings, [True] * 4, "circle") == [[2, 3]]


@pytest.fixture(scope="module")
def asked(tiny_model, shapes_questions):
    """A batch of two, padded; a word that one token is, twice in the second item, and one of several tokens."""
    pictures = [list(shapes_questions[1].images)] * 2
    texts = ["What colour is the circle?", "Is the red circle left of the dark circle in the picture?"]
    return tiny_model, tiny_model.prompt(texts, images=pictures)


def by_hand(prompt, item: int, *pieces: str) -> list[int]:
    """Columns of the batch at which a token is one of these, blanks aside."""
    return [i for i, text in enumerate(prompt.str_tokens[item]) if text.strip() in pieces]


def test_a_word_is_a_mask_of_the_batch(asked) -> None:
    _, prompt = asked
    found = prompt.find("circle")
    assert found.dtype == torch.bool and tuple(found.shape) == (2, prompt.n_pos)
    for item in range(2):
        assert found[item].nonzero().flatten().tolist() == by_hand(prompt, item, "circle")
    assert found.sum(-1).tolist() == [1, 2]
    second = by_hand(prompt, 1, "circle")
    for nth, place in ((0, second[0]), (1, second[1]), (-1, second[1])):
        assert prompt.find("Circle", nth, item=1).nonzero().tolist() == [[1, place]]
    assert not prompt.find("dark", item=1)[0].any()
    dark = prompt.find("dark", item=1)[1].nonzero().flatten().tolist()
    assert "".join(prompt.str_tokens[1][i] for i in dark) == "dark" and len(dark) == 4
    assert prompt.find("assistant").any()
    with pytest.raises(UnknownName, match="item 0: the text has no word 'assistant'"):
        prompt.find("assistant", within="question")


def test_it_goes_wherever_positions_go(asked) -> None:
    """Queries, keys and positions of edits, rows of a cache, lenses; and through JSON."""
    model, prompt = asked
    first = prompt.find("circle", nth=0)
    place = [int(row.nonzero()) for row in first]
    spec = [[int(prompt.token_map.real[i, : place[i]].sum())] for i in range(2)]
    for edit in (
        la.KnockOut("last", first),
        la.Ablate("mlp", layers=[2], positions=first),
        la.KnockOut(first, "image"),
    ):
        assert la.Intervention.from_json(edit.to_json()) == edit
        logits, cache = model.run_with_cache(prompt, ["blocks.3.hook_resid_post"], edit)
        assert not cache.touched.nowhere
        for i in range(2):  # the same edit of one item, its position as a number
            named = {k: spec[i] if isinstance(v, torch.Tensor) else v for k, v in vars(edit).items()}
            alone = model.run_with_hooks(prompt[i], interventions=type(edit)(**named))
            torch.testing.assert_close(alone[0, -1], logits[i, -1], atol=1e-3, rtol=0)
    _, cache = model.run_with_cache(prompt)
    rows = cache.at(("resid_post", 3), first)
    assert rows[:, 0].equal(torch.stack([cache["resid_post", 3][i, place[i]] for i in range(2)]))


def test_a_word_is_a_query_of_a_view(asked) -> None:
    model, prompt = asked
    _, cache = model.run_with_cache(prompt, lambda name: name.endswith("hook_pattern") and name.startswith("blocks.2"))
    place = int(prompt.find("red", item=1)[1].nonzero())
    row = int(prompt.token_map.real[1, :place].sum())
    word = la.view.attention_on_image(cache, prompt, 2, item=1, query="red")
    number = la.view.attention_on_image(cache, prompt, 2, item=1, query=row)
    shown = [[axes.get_title() for axes in figure.axes] for figure in (word, number)]
    assert shown[0] == shown[1] and "'red'" not in word._suptitle.get_text()
    for query, why in (("circle", "names 2 positions of item 1: "), ("dark", "names 4 positions of item 1: ")):
        with pytest.raises(InputError, match=why):
            la.view.attention_on_image(cache, prompt, 2, item=1, query=query)
    la.view.attention_on_image(cache, prompt, 2, item=1, query=prompt.find("circle", nth=1, item=1))
    with pytest.raises(UnknownName, match="item 1: the text has no word 'rde'. Did you mean 'red'"):
        la.view.attention_on_image(cache, prompt, 2, item=1, query="rde")


def test_what_is_not_there_is_refused(asked) -> None:
    model, prompt = asked
    with pytest.raises(UnknownName, match="item 0: the text has no word 'red'"):
        prompt.find("red")
    with pytest.raises(InputError, match="nth is 2; 'circle' occurs 2 times in item 1"):
        prompt.find("circle", 2, item=1)
    with pytest.raises(InputError, match="item is 5; the prompt holds items 0 to 1"):
        prompt.find("circle", item=5)
    for word in ("", " "):
        with pytest.raises(InputError, match="expected a word of the prompt's text"):
            prompt.find(word)
    with pytest.raises(UnknownName, match=r"The positions of a word of the prompt are prompt.find\('circle'\)"):
        model.run_with_hooks(prompt, interventions=la.KnockOut("last", "circle"))

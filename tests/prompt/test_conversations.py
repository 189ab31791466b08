"""Conversations: messages, what a processor made of them, and the turns and parts of both."""

from __future__ import annotations

import base64
import copy
import io
from itertools import groupby

import chat_templates
import families
import numpy as np
import pytest
import torch
from painting import noise

from lostattn.errors import InputError, UnknownName
from lostattn.prompt import build_prompt
from lostattn.prompt.parts import PARTS

# Written by processors that make arrays of tensors in a way that numpy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = [name for name in families.MAKERS if name not in ("paligemma", "gemma3 with pan and scan")]
CHEAP = ("llava", "qwen3_5", "pixtral", "smolvlm")


def text(said: str) -> dict:
    return {"type": "text", "text": said}


def picture(k: int) -> dict:
    return {"type": "image", "image": noise(40 + 12 * k, 64 - 8 * k, k)}


def user(*content) -> dict:
    return {"role": "user", "content": list(content)}


def model(said: str) -> dict:
    return {"role": "assistant", "content": [text(said)]}


THREE = [
    user(picture(0), text("How many red squares are there?")),
    model("two"),
    user(picture(1), text("Is it there?")),
]


def prompt(name: str, messages, **keywords):
    family = families.family(name)
    return build_prompt(family.processor, family.config, messages, **keywords)


def read_back(name: str, inputs):
    family = families.family(name)
    return build_prompt(family.processor, family.config, inputs=inputs)


def same_map(one, other) -> bool:
    a, b = one.token_map, other.token_map
    return (
        torch.equal(a.part, b.part)
        and torch.equal(a.turn_index, b.turn_index)
        and torch.equal(a.image_index, b.image_index)
        and (a.roles, a.located) == (b.roles, b.located)
    )


def chosen(given, spec: str, item: int = 0) -> str:
    mask = given.token_map[spec][item].tolist()
    return "".join(t for t, m in zip(given.str_tokens[item], mask, strict=True) if m and t != "<image>")


def runs(given, item: int = 0) -> list[tuple[str, int, str]]:
    """What is of one part and turn, one after another: part, turn, text; of a picture with its separators no text."""
    found = given.token_map
    shown = {"image": "picture", "separator": "picture", "padding": ""}
    rows = [
        (shown.get(PARTS[part], PARTS[part]), turn, token)
        for part, turn, token in zip(
            found.part[item].tolist(), found.turn_index[item].tolist(), given.str_tokens[item], strict=True
        )
    ]
    grouped = [(*key, "".join(row[2] for row in own)) for key, own in groupby(rows, key=lambda row: row[:2])]
    return [(part, turn, "" if part == "picture" else said) for part, turn, said in grouped if part]


CHATML = (
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
)
SEEN = ("<|vision_start|>", "<|vision_end|>")
HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
IDEFICS = ("<end_of_utterance>\nAssistant: ", "<end_of_utterance>\nUser:", "<end_of_utterance>\nAssistant:")
MISTRAL = ("[/INST]", "<eos>[INST]", "[/INST]")
LLAMA = (
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
)
# Before the first turn; before and behind a picture; before an answer, the next question and the answer to come.
WRITTEN = {
    "llava": ("<s>USER: ", ("", "\n"), " ASSISTANT: ", " USER: ", " ASSISTANT:"),
    "llava_next": ("<s>[INST] ", ("", "\n"), " [/INST] ", "</s> [INST] ", " [/INST]"),
    "llava_onevision": (
        "<|im_start|>user ", ("", "\n"), "<|im_end|><|im_start|>assistant \n", "<|im_end|><|im_start|>user ",
        "<|im_end|><|im_start|>assistant\n",
    ),
    "qwen2_vl": (f"{HELPFUL}<|im_start|>user\n", SEEN, *CHATML),
    "qwen2_5_vl": (f"{HELPFUL}<|im_start|>user\n", SEEN, *CHATML),
    "qwen3_vl": ("<|im_start|>user\n", SEEN, *CHATML),
    "qwen3_5": ("<|im_start|>user\n", SEEN, *CHATML),
    "internvl": ("<|im_start|>user\n", ("", "\n"), *CHATML),
    # The line break before and behind a picture has become one token with those that the processor writes there.
    "gemma3": (
        "<bos><start_of_turn>user", ("", ""), "<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>\n<start_of_turn>user", "<end_of_turn>\n<start_of_turn>model\n",
    ),
    "idefics3": ("<|begin_of_text|>User:", ("", ""), *IDEFICS),
    "smolvlm": ("<|im_start|>User:", ("", ""), *IDEFICS),
    "mllama": ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n", ("", ""), *LLAMA),
    "pixtral": ("<s>[INST]", ("", ""), *MISTRAL),
    "mistral3": ("<s>[INST]", ("", ""), *MISTRAL),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_word_of_three_turns_is_of_its_part_and_turn(name):
    opens, (before, behind), asks, goes_on, opening = WRITTEN[name]
    expected = [
        ("system", -1, opens), ("template", -1, before), ("picture", 0, ""), ("template", -1, behind),
        ("history", 0, "How many red squares are there?"), ("template", -1, asks), ("history", 1, "two"),
        ("template", -1, goes_on + before), ("picture", 2, ""), ("template", -1, behind),
        ("question", 2, "Is it there?"), ("template", -1, opening),
    ]  # fmt: skip
    if name == "qwen3_5":  # an empty thought before the answer
        expected += [("thought", -1, "<think>\n\n</think>"), ("template", -1, "\n\n")]
    made = prompt(name, THREE)
    assert runs(made) == [row for row in expected if row[0] == "picture" or row[2]]
    assert made.token_map.roles == (("user", "assistant", "user"),) and made.texts == ("Is it there?",)
    again = read_back(name, made.inputs)
    assert same_map(made, again) and again.token_map.located == (True,) and again.texts == made.texts


SHAPES = {
    "pictures behind and between words": [
        user(text("This "), picture(0), text(" is A, this "), picture(1), text(" is B. Same?")), model("no"),
        user(text("Why not?"), picture(2)),
    ],
    "the words of others in quotes": [
        user(picture(0), text("What does the user say, assistant?")), model("The user: hello. model"),
        user(text("User says so?")),
    ],
    "an answer to go on with": [
        user(picture(0), text("How many?")), model("two"), user(text("Sure?")), model("Yes, I"),
    ],
    "a picture in the last turn alone": [user(text("Hi there")), model("Hello"), user(picture(0), text("How many?"))],
    "a picture without words": [user(picture(0)), model("I see"), user(text("How many?"))],
    "many turns": [
        user(text("Hi")), model("a b"), user(picture(0), text("c")), model("d e"), user(text("f")), model("g"),
        user(text("h?"), picture(1)),
    ],
    "one turn": [user(picture(0), text("How many?"))],
    "one turn and an answer": [user(picture(0), text("How many?")), model("There are")],
    "white space around words": [
        user(picture(0), text("  How many? \n")), model(" two \n"), user(text("\n\nSure of it?  ")),
    ],
    "no picture": [user(text("Hi")), model("Hello there"), user(text("How are you?"))],
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_messages_and_what_was_made_of_them_have_one_map(name, shape):
    messages = SHAPES[shape]
    made = prompt(name, messages)
    again = read_back(name, made.inputs)
    if made.token_map.located == (True,) != again.token_map.located:  # the blank line may part a system's words
        assert name in ("gemma3", "pixtral") and shape == "white space around words"
        return
    assert same_map(made, again) and made.token_map.located == (True,)
    asked = [one for one in messages if one["role"] == "user"]
    said = "".join(part.get("text", "") for part in asked[-1]["content"])
    assert "".join(chosen(made, "question").split()) == "".join(said.split())
    for k, one in enumerate(messages):
        words = "".join(part.get("text", "") for part in one["content"])
        held = made.token_map[f"turn:{k}"] & made.token_map["history|question|answer"]
        spoken = "".join(t for t, m in zip(made.str_tokens[0], held[0].tolist(), strict=True) if m)
        assert "".join(spoken.split()) == "".join(words.split()), k
        n = sum(part["type"] == "image" for part in one["content"])
        seen = made.token_map.image_index[0][made.token_map[f"turn:{k}"][0]]
        # Llama 3.2 reads pictures beside the sequence.
        assert name == "mllama" or len(seen[seen >= 0].unique()) == n


@pytest.mark.parametrize("name", NAMES)
def test_a_question_and_the_message_that_it_is_have_one_map(name):
    shown = noise(40, 64)
    asked = prompt(name, "How many red squares?", images=[shown], answer="two")
    said = [user(picture(0), text("How many red squares?")), model("two")]
    if name == "llava_onevision":  # its template puts a space before an answer that it does not put before one to come
        asked, said = prompt(name, "How many red squares?", images=[shown]), said[:1]
    assert torch.equal(asked.inputs["input_ids"], prompt(name, said).inputs["input_ids"])
    assert same_map(asked, prompt(name, said)) and asked.token_map.roles[0][0] == "user"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mllama"])
def test_what_the_system_says_is_no_turn(name):
    messages = [{"role": "system", "content": [text("Be brief.")]}, *THREE]
    made = prompt(name, messages)
    assert "Be brief." in chosen(made, "system") and "Be brief." not in chosen(made, "history|question|template")
    assert made.token_map.roles == (("user", "assistant", "user"),)
    first = made.token_map["turn:0"] & made.token_map["history"]
    said = "".join(t for t, m in zip(made.str_tokens[0], first[0].tolist(), strict=True) if m)
    assert said.strip() == "How many red squares are there?"
    again = read_back(name, made.inputs)
    if name in ("gemma3", "pixtral"):  # the template puts them into a turn of the user: ids do not tell whose they are
        assert again.token_map.located == (False,)
        family, one = families.family(name), prompt(name, [messages[0], user(picture(0), text("How many?"))])
        told = build_prompt(family.processor, family.config, "How many?", inputs=one.inputs)  # the text tells it
        assert same_map(one, told) and "Be brief." in chosen(told, "system") and told.token_map.located == (True,)
    else:
        assert same_map(made, again) and again.token_map.located == (True,)


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_vl", "qwen3_5", "smolvlm", "mllama"])
def test_turns_in_another_order_are_told_or_said_not_to_be(name):
    """Two questions without an answer between them, or the model that speaks first."""
    pair = [user(text("Hi there")), user(picture(0), text("How many?"))]
    first = [model("Welcome"), user(picture(0), text("How many?"))]
    for messages, history in ((pair, "Hi there"), (first, "Welcome")):
        made = prompt(name, messages)
        assert made.token_map.roles == (tuple(one["role"] for one in messages),)
        assert chosen(made, "history").strip() == history and chosen(made, "question").strip() == "How many?"
        again = read_back(name, made.inputs)
        assert again.token_map.located == (False,) or same_map(made, again)


def test_words_of_the_system_between_turns_are_the_systems():
    later = [THREE[0], THREE[1], {"role": "system", "content": "Be brief."}, THREE[2]]
    made = prompt("qwen2_vl", later)
    assert "Be brief." in chosen(made, "system") and chosen(made, "history") == "How many red squares are there?two"
    assert made.token_map.roles == (("user", "assistant", "user"),)
    assert read_back("qwen2_vl", made.inputs).token_map.located == (False,)


def test_a_template_that_refuses_is_quoted():
    with pytest.raises(InputError, match="Prompting with images is incompatible with system messages"):
        prompt("mllama", [{"role": "system", "content": "Be brief."}, *THREE])
    with pytest.raises(InputError, match="roles must alternate"):
        prompt("gemma3", [THREE[0], THREE[2]])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CHEAP)
def test_a_batch_of_conversations_has_the_maps_of_its_items(name, side):
    family = families.family(name)
    several = [THREE, SHAPES["no picture"], SHAPES["an answer to go on with"]]
    batch, alone = prompt(name, several), [prompt(name, one) for one in several]
    if side == "right":
        order = batch.token_map.real.long().argsort(dim=-1, descending=True, stable=True)
        moved = {n: v.gather(1, order) if v.shape == order.shape else v for n, v in batch.inputs.items()}
        batch = build_prompt(family.processor, family.config, inputs=moved)
    for i, one in enumerate(alone):
        real = batch.token_map.real[i]
        assert torch.equal(batch.token_map.part[i][real], one.token_map.part[0])
        assert torch.equal(batch.token_map.turn_index[i][real], one.token_map.turn_index[0])
    assert batch.token_map.roles == tuple(one.token_map.roles[0] for one in alone)
    assert [int(n) for n in batch.token_map["user:1"].any(-1)] == [1, 1, 1]
    assert [int(n) for n in batch.token_map["assistant:1"].any(-1)] == [0, 0, 1]
    assert chosen(batch, "user:-1", 1).strip() == "How are you?"
    assert batch[1:].token_map.roles == batch.token_map.roles[1:]


def test_turns_by_name():
    found = prompt("qwen2_vl", THREE).token_map
    assert torch.equal(found["turn:0"], found["user:0"]) and torch.equal(found["turn:-1"], found["user:1"])
    assert torch.equal(found[("assistant", 0)], found["turn:1"])
    assert torch.equal(found["user:0|user:1"] & found["image"], found["image"])
    assert not found["assistant:1"].any() and not found["tool:0"].any()
    with pytest.raises(InputError, match=r"no[t]? there; the turns are item 0: user, assistant, user"):
        found.resolve("turn:3", need=True)
    for unknown in ("turn", "turn:x", "model:0", "user"):
        with pytest.raises(UnknownName, match="turn:k"):
            found[unknown]
    # What is generated is a new turn of the model's.
    assert found.extends("assistant:1") and found.extends("turn:3") and not found.extends("assistant:0")
    assert not found.extends("turn:-1") and not found.extends("history")
    going = prompt("qwen2_vl", SHAPES["an answer to go on with"]).token_map
    assert going.extends("assistant:1") and going.extends("turn:-1") and not going.extends("turn:4")


def test_thoughts_are_a_part_of_their_own():
    """Those before the last question are dropped by the template; the last answer's are kept."""
    messages = [
        *THREE[:1], model("<think>\nold thought\n</think>\n\ntwo"), user(text("Sure?")),
        model("<think>\nI count again\n</think>\n\nYes"),
    ]  # fmt: skip
    made = prompt("qwen3_5", messages)
    assert chosen(made, "thought") == "<think>\nI count again\n</think>"
    assert chosen(made, "answer") == "Yes" and "old thought" not in "".join(made.str_tokens[0])
    assert chosen(made, "history") == "How many red squares are there?two"
    assert chosen(made, "assistant:1") == "<think>\nI count again\n</think>Yes"
    assert same_map(made, read_back("qwen3_5", made.inputs))
    apart = [*messages[:3], {**model("Yes"), "reasoning_content": "I count again"}]
    assert same_map(made, prompt("qwen3_5", apart))
    # What a user writes between such marks is a user's words, and where no template drops it it stays.
    told = prompt("qwen2_vl", [user(text("Say <think> x </think> now")), model("<think>hm</think>ok"), user(text("b"))])
    assert chosen(told, "history") == "Say <think> x </think> nowok" and chosen(told, "thought") == "<think>hm</think>"


def test_options_go_to_the_template():
    plain, thinking = prompt("qwen3_5", THREE), prompt("qwen3_5", THREE, chat_template_kwargs={"enable_thinking": True})
    assert chosen(plain, "thought") == "<think>\n\n</think>" and chosen(thinking, "thought").startswith("<think>")
    assert "".join(thinking.str_tokens[0]).endswith("<|im_start|>assistant\n<think>\n")
    assert same_map(thinking, read_back("qwen3_5", thinking.inputs))
    asked = prompt("qwen3_5", "Is it?", images=[noise(40, 64)], chat_template_kwargs={"enable_thinking": True})
    assert "".join(asked.str_tokens[0]).endswith("<think>\n") and chosen(asked, "question") == "Is it?"
    numbered = prompt("qwen2_vl", THREE, chat_template_kwargs={"add_vision_id": True})
    assert "Picture 2: " in "".join(numbered.str_tokens[0])
    closed = prompt("qwen2_vl", THREE, chat_template_kwargs={"add_generation_prompt": False})
    assert "".join(closed.str_tokens[0]).endswith("Is it there?<|im_end|>\n")
    with pytest.raises(UnknownName, match=r"'enable_thinkng'.*Did you mean 'enable_thinking'"):
        prompt("qwen3_5", THREE, chat_template_kwargs={"enable_thinkng": True})
    with pytest.raises(UnknownName, match="makes nothing of 'enable_thinking'"):
        prompt("llava", THREE, chat_template_kwargs={"enable_thinking": True})


TOOL = {"type": "function", "function": {"name": "count", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "count", "arguments": {"of": "squares"}}}


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5"])
def test_turns_of_tools(name):
    messages = [
        user(picture(0), text("How many?")), {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "three"}, model("Three."), user(text("Sure?")),
    ]  # fmt: skip
    made = prompt(name, messages, chat_template_kwargs={"tools": [TOOL]})
    assert made.token_map.roles == (("user", "assistant", "tool", "assistant", "user"),)
    assert chosen(made, "tool:0") == "three" and chosen(made, "assistant:1") == "Three."
    assert "<tool_call>" in chosen(made, "assistant:0") and "squares" in chosen(made, "history")
    assert '"count"' in chosen(made, "system") and chosen(made, "question") == "Sure?"
    assert same_map(made, read_back(name, made.inputs))
    # A tool that has just answered: the question is still that of the last user.
    open_ = prompt(name, messages[:3])
    assert chosen(open_, "question") == "How many?" and chosen(open_, "tool:-1") == "three"
    assert same_map(open_, read_back(name, open_.inputs))


def test_pictures_are_given_in_every_way(tmp_path):
    shown = noise(40, 64)
    path = tmp_path / "picture.png"
    shown.save(path)
    raw = io.BytesIO()
    shown.save(raw, "PNG")
    coded = base64.b64encode(raw.getvalue()).decode()
    parts = [
        {"type": "image", "image": shown}, {"type": "image", "path": str(path)}, {"type": "image", "url": str(path)},
        {"type": "image", "url": f"file://{path}"}, {"type": "image", "image": np.asarray(shown)}, {"image": path},
        {"type": "image", "base64": coded}, {"type": "image", "url": f"data:image/png;base64,{coded}"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{coded}"}},
    ]  # fmt: skip
    expected = prompt("qwen2_vl", [user(parts[0], text("Red?"))])
    for part in parts:
        made = prompt("qwen2_vl", [user(part, text("Red?"))])
        assert torch.equal(made.inputs["pixel_values"], expected.inputs["pixel_values"]) and made.ids == expected.ids
    beside = prompt("qwen2_vl", [user({"type": "image"}, text("Red?"))], images=[shown])
    mixed = [user({"type": "image"}, text("A")), model("b"), user(parts[1], {"type": "image"}, text("C"))]
    both = prompt("qwen2_vl", mixed, images=[noise(24, 32, 5), noise(30, 30, 6)])
    assert same_map(beside, expected) and [p.size for p in both.images[0]] == [(24, 32), (40, 64), (30, 30)]
    with pytest.raises(InputError, match="address"):
        prompt("qwen2_vl", [user({"type": "image", "url": "https://example.org/a.png"}, text("Red?"))])


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([{"role": "usr", "content": "Hi"}], r"message 0 of conversation 0 is by 'usr'.*Did you mean 'user'"),
        ([{"content": "Hi"}], "has no role"),
        ([user(text("Hi")), "Hello"], "message 1 of conversation 0 is a str"),
        ([{"role": "user"}], "content of message 0 of conversation 0 is missing"),
        ([{"role": "user", "content": 5}], "content of message 0 of conversation 0 is a int"),
        ([user("Hi")], "part 0 of message 0 of conversation 0 is a str"),
        ([user({"type": "audio", "audio": "a.wav"})], "is of type 'audio'"),
        ([user({"type": "text", "text": 5})], "the text of part 0"),
        ([user({"type": "image"}, text("Hi"))], "1 place for images given beside it, but images= holds 0"),
        ([{"role": "system", "content": "Hi"}], "words of the system alone"),
        ([[user(text("Hi"))], []], "conversation 1 holds no message"),
        ([user({"type": "image", "image": noise(9, 9), "path": "x.png"})], "holds 2 images"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused(messages, told):
    with pytest.raises(InputError, match=told):
        prompt("qwen2_vl", messages)


def test_what_does_not_go_with_messages_is_refused():
    with pytest.raises(InputError, match="images= holds 2"):
        prompt("qwen2_vl", [user({"type": "image"}, text("Hi"))], images=[noise(9, 9), noise(8, 8)])
    with pytest.raises(InputError, match="messages say all words themselves"):
        prompt("qwen2_vl", THREE, answer="two")
    with pytest.raises(InputError, match="no chat template to write messages"):
        prompt("paligemma", THREE)
    with pytest.raises(InputError, match="both as parts and as placeholders"):
        prompt("qwen2_vl", [user(picture(0), text("<|image_pad|> red?"))], images=[noise(9, 9)])
    shows = {"role": "assistant", "content": [text("Here"), picture(0)]}
    with pytest.raises(InputError, match="template writes '<|image_pad|>' 0 times".replace("|", "[|]")):
        prompt("qwen3_vl", [user(text("Draw")), shows, user(text("Why?"))])
    with pytest.raises(InputError, match="give one of them"):
        build_prompt(families.family("qwen2_vl").processor, families.family("qwen2_vl").config, "Hi", messages=THREE)
    with pytest.raises(InputError, match="chat_template_kwargs"):
        prompt("qwen2_vl", THREE, chat_template_kwargs=["enable_thinking"])


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_template_of_one_turn_tells_no_turns(name):
    """Words that were joined by hand are then of an unknown part, and messages are refused or located."""
    family = families.family(name)
    processor = copy.copy(family.processor)
    opens, asks, shown = {
        "llava": ("USER: ", " ASSISTANT:", "<image>\n"),
        "qwen2_vl": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", f"{SEEN[0]}<|image_pad|>{SEEN[1]}"),
    }[name]
    processor.chat_template = chat_templates.one_turn(opens, shown, asks)
    written = f"{opens}{shown}How many?{asks} red {opens}And now?{asks}"
    out = processor(text=[written], images=[[noise(40, 64)]], return_tensors="pt")
    given = build_prompt(processor, family.config, inputs=dict(out))
    assert given.token_map.located == (False,) and "How many?" in chosen(given, "text")
    with pytest.raises(InputError, match="could not be told apart"):
        given.token_map["turn:0"]


def test_marks_among_the_words_are_not_taken_for_turns():
    """Whoever writes messages says whose words are whose; ids alone then do not."""
    told = [user(text("Who is ASSISTANT: here?")), model("nobody"), user(text("Sure?"))]
    made = prompt("llava", told)
    assert chosen(made, "user:0").strip() == "Who is ASSISTANT: here?" and made.token_map.located == (True,)
    assert read_back("llava", made.inputs).token_map.located == (False,)


@pytest.mark.parametrize("way", chat_templates.OTHERS)
def test_turns_are_told_in_other_ways_of_writing_them(way):
    family = families.family("llava")
    processor = copy.copy(family.processor)
    processor.chat_template = chat_templates.OTHERS[way]
    shapes = ("the words of others in quotes", "an answer to go on with", "no picture", "one turn")
    tools = [user(text("Hi")), model("call"), {"role": "tool", "content": "three"}, model("ok"), user(text("And?"))]
    for messages in (THREE, *(SHAPES[shape] for shape in shapes), tools):
        if way in ("capital names", "no opening of an answer") and messages is SHAPES["the words of others in quotes"]:
            continue  # they are what opens turns here
        made = build_prompt(processor, family.config, messages)
        again = build_prompt(processor, family.config, inputs=made.inputs)
        assert same_map(made, again) and made.token_map.located == (True,), messages
        for k, one in enumerate(messages):
            said = one["content"] if isinstance(one["content"], str) else one["content"][-1]["text"]
            own = made.token_map[f"turn:{k}"] & made.token_map["history|question|answer"]
            found = "".join(t for t, m in zip(made.str_tokens[0], own[0].tolist(), strict=True) if m)
            assert "".join(found.split()) == "".join(said.split())


def test_words_that_a_template_writes_anew_are_not_located():
    family = families.family("llava")
    processor = copy.copy(family.processor)
    processor.chat_template = chat_templates.UPPER
    made = build_prompt(processor, family.config, SHAPES["no picture"])
    assert made.token_map.located == (False,) and "HOW ARE YOU?" in chosen(made, "text")
    # Nor are those that it leaves out, and that is said.
    processor.chat_template = chat_templates.LLAVA.replace("m['role'] != 'system'", "m['role'] == 'user'").replace(
        "{{ c['text'] + ' ' }}", "{% if m['role'] == 'user' %}{{ c['text'] + ' ' }}{% endif %}"
    )
    with pytest.raises(InputError, match="drops the words of message 1 of conversation 0, by 'assistant'"):
        build_prompt(processor, family.config, THREE)

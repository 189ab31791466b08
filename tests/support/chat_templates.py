"""Chat templates of several turns, one a family, which write what the published ones write.

They are written anew here, as short as the words that they put between turns allow. What differs between the published
ones is kept: pictures first or where they stand, capital roles, white space, what closes a turn, words of the system
in a turn of the user, thoughts that are dropped, and refusals.
"""

from __future__ import annotations


def one_turn(before: str, image: str, after: str) -> str:
    """A template that knows no turns: images, then text, then the opening of an answer."""
    return (
        "{% for m in messages %}" + before + "{% for c in m['content'] if c['type'] == 'image' %}" + image
        + "{% endfor %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endfor %}"
        + after
    )  # fmt: skip


def _content(image: str, text: str = "{{ c['text'] }}") -> str:
    """A message's parts where they stand, or its text."""
    return (
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        f"{{% if c['type'] == 'image' %}}{image}{{% elif c['type'] == 'text' %}}{text}{{% endif %}}"
        "{% endfor %}{% endif %}"
    )


def _images_first(image: str, text: str) -> str:
    """A message's pictures, then its texts; one that is no list has neither."""
    return (
        f"{{% for c in m['content'] if c['type'] == 'image' %}}{image}{{% endfor %}}"
        f"{{% for c in m['content'] if c['type'] == 'text' %}}{text}{{% endfor %}}"
    )


def _each(turn: str, opening: str, before: str = "", messages: str = "messages") -> str:
    return (
        f"{before}{{% for m in {messages} %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    )


_ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
_SYSTEM_APART = (
    "{% set told = '' %}{% set spoken = messages %}{% if messages[0]['role'] == 'system' %}"
    "{% set told = messages[0]['content'] if messages[0]['content'] is string else messages[0]['content'][0]['text'] %}"
    "{% set spoken = messages[1:] %}{% endif %}"
)

LLAVA = _each(
    "{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    + _images_first("{{ '<image>\n' }}", "{{ c['text'] + ' ' }}"),
    "ASSISTANT:",
)
LLAVA_NEXT = _each(
    "{% if m['role'] == 'system' %}{{ '<<SYS>>\n' + m['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' }}" + _images_first("{{ '<image>\n' }}", "{{ c['text'] }}")
    + "{{ ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'][0]['text'] + '</s> ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}",
    "",
)  # fmt: skip
LLAVA_ONEVISION = _each(
    "{{ '<|im_start|>' + m['role'] + ' ' }}" + _images_first("<image>", "{{ '\n' + c['text'] }}") + "<|im_end|>",
    "{{ '<|im_start|>assistant\n' }}",
)
INTERNVL = _each(
    "{{ '<|im_start|>' + m['role'] + '\n' }}" + _content("{{ '<IMG_CONTEXT>\n' }}") + "{{ '<|im_end|>\n' }}",
    "{{ '<|im_start|>assistant\n' }}",
)
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN2_VL = _each(
    "{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    + _content("{% set n.seen = n.seen + 1 %}{% if add_vision_id %}Picture {{ n.seen }}: {% endif %}" + _QWEN_IMAGE)
    + "{{ '<|im_end|>\n' }}",
    "{{ '<|im_start|>assistant\n' }}",
    before="{% set n = namespace(seen=0) %}",
)
_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n# Tools\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
)
_TOOL_TURN = (
    "{% elif m['role'] == 'tool' %}{% if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}"
    "<|im_start|>user{% endif %}{{ '\n<tool_response>\n' }}" + _content("") + "{{ '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
)
_CALLS = (
    "{% for call in m['tool_calls'] or [] %}{{ '\n<tool_call>\n' + (call['function'] | tojson) + '\n</tool_call>' }}"
    "{% endfor %}"
)
QWEN3_VL = _each(
    "{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}" + _content("") + _CALLS + "{{ '<|im_end|>\n' }}"
    + _TOOL_TURN + "{% else %}{{ '<|im_start|>' + m['role'] + '\n' }}" + _content(_QWEN_IMAGE)
    + "{{ '<|im_end|>\n' }}{% endif %}",
    "{{ '<|im_start|>assistant\n' }}",
    before=_TOOLS,
)  # fmt: skip
# Thoughts before the last question are dropped; behind it there is always a block of them, an empty one where none are.
QWEN3_5 = _each(
    "{% set said %}" + _content(_QWEN_IMAGE) + "{% endset %}{% set said = said | trim %}"
    "{% if m['role'] == 'assistant' %}{% set thought = m['reasoning_content'] or '' %}{% if '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1] | trim %}"
    "{% set said = said.split('</think>')[-1] | trim %}{% endif %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > last.asked %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ said }}"
    + _CALLS + "{{ '<|im_end|>\n' }}" + _TOOL_TURN
    + "{% elif m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + said + '<|im_end|>\n' }}{% endif %}",
    "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking %}{{ '<think>\n' }}"
    "{% else %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
    before=_TOOLS + "{% set last = namespace(asked=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set last.asked = loop.index0 %}{% endif %}{% endfor %}",
)  # fmt: skip
GEMMA3 = _each(
    _ALTERNATE + "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{% if loop.first and told %}{{ told + '\n\n' }}{% endif %}"
    + _content("<start_of_image>", "{{ c['text'] | trim }}") + "{{ '<end_of_turn>\n' }}",
    "{{ '<start_of_turn>model\n' }}",
    before="{{ bos_token }}" + _SYSTEM_APART,
    messages="spoken",
)  # fmt: skip


def idefics(begin: str) -> str:
    """Of Idefics 3 and SmolVLM: roles with a capital, and no space before a picture."""
    return _each(
        "{{ m['role'].capitalize() }}"
        "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
        "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% elif c['type'] == 'image' %}<image>"
        "{% endif %}{% endfor %}{{ '<end_of_utterance>\n' }}",
        "Assistant:",
        before=begin,
    )


# A text without a picture is told the date, and words of the system go with no picture.
MLLAMA = _each(
    "{{ '<|start_header_id|>' + ('ipython' if m['role'] == 'tool' else m['role']) + '<|end_header_id|>\n\n' }}"
    + _content("<|image|>", "{{ c['text'] | trim }}") + "<|eot_id|>",
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
    before="{{ bos_token }}" + _SYSTEM_APART + "{% set n = namespace(seen=0) %}{% for m in spoken %}"
    "{% for c in m['content'] if c['type'] == 'image' %}{% set n.seen = n.seen + 1 %}{% endfor %}{% endfor %}"
    "{% if n.seen and told %}{{ raise_exception('Prompting with images is incompatible with system messages.') }}"
    "{% elif not n.seen %}{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' + told }}"
    "<|eot_id|>{% endif %}",
    messages="spoken",
)  # fmt: skip
# The system's words come in the last turn of the user.
PIXTRAL = _each(
    _ALTERNATE + "{% if m['role'] == 'user' %}{{ '[INST]' }}{% if loop.last and told %}{{ told + '\n\n' }}{% endif %}"
    + _content("[IMG]") + "[/INST]{% else %}" + _content("") + "{{ eos_token }}{% endif %}",
    "",
    before="{{ bos_token }}" + _SYSTEM_APART,
    messages="spoken",
)  # fmt: skip
MISTRAL3 = _each(
    _ALTERNATE + "{% if m['role'] == 'user' %}[INST]" + _content("[IMG]") + "[/INST]{% else %}" + _content("")
    + "{{ eos_token }}{% endif %}",
    "",
    before="{{ bos_token }}" + _SYSTEM_APART
    + "{% if told %}{{ '[SYSTEM_PROMPT]' + told + '[/SYSTEM_PROMPT]' }}{% endif %}",
    messages="spoken",
)  # fmt: skip


_PLAIN = _content("<image>")
OTHERS = {
    "words of the system by themselves": _each(
        "{% if m['role'] == 'user' %}USER: " + _PLAIN + "{{ ' ' }}{% elif m['role'] == 'assistant' %}ASSISTANT: "
        + _PLAIN + "</s>{% else %}" + _PLAIN + "{{ ' ' }}{% endif %}",
        "ASSISTANT:",
        before="{% if messages[0]['role'] != 'system' %}{{ 'A chat of a user and an assistant. ' }}{% endif %}",
    ),
    "capital names": _each("{{ ' ' + m['role'].capitalize() + ': ' }}" + _PLAIN, "{{ ' Assistant:' }}"),
    "blank lines": _each(
        "{{ m['role'].capitalize() + ': ' }}" + _PLAIN
        + "{% if m['role'] == 'assistant' %}</s>{% else %}{{ '\n\n' }}{% endif %}",
        "Assistant:",
    ),
    "marks that are plain text": _each(
        "{{ '<|' + m['role'] + '|>\n' }}" + _PLAIN + "{{ '<|end|>\n' }}", "{{ '<|assistant|>\n' }}"
    ),
    "nothing that closes a turn": _each(
        "{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' %}{{ '<think></think>\n' }}{% endif %}" + _PLAIN,
        "{{ '<|assistant|>\n<think>' }}",
    ),
    "no opening of an answer": _each("{{ m['role'] + ': ' }}" + _PLAIN + "{{ '\n' }}", ""),
}  # fmt: skip
"""Ways of writing turns that other families have, in the text of a processor whose picture is ``<image>``."""
UPPER = _each(
    "{{ m['role'] + ': ' }}{% set said %}" + _PLAIN + "{% endset %}{{ said | upper }}{{ '\n' }}", "assistant:"
)
"""Words are not written as they are given."""

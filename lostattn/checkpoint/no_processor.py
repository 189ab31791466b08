"""What stands in a processor's place for a model that has none: token ids are their own text."""

from __future__ import annotations

from collections.abc import Sequence


class PlainTokenizer:
    """Writes the ids ``[5, 7]`` as ``"<5><7>"``, and reads that back."""

    is_fast = False
    chat_template = None
    pad_token = eos_token = bos_token = None
    pad_token_id: int | None = None
    padding_side = "left"
    all_special_ids: tuple[int, ...] = ()

    def decode(self, ids: Sequence[int], **_: object) -> str:
        """The ids as text."""
        return "".join(f"<{int(i)}>" for i in ids)

    def convert_ids_to_tokens(self, token: int) -> str:
        """One id as text."""
        return f"<{token}>"

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        """The ids of such a text; none where it is another text."""
        pieces = text.strip().removeprefix("<").removesuffix(">").split("><")
        return {"input_ids": [int(p) for p in pieces] if all(p.isdigit() for p in pieces) else []}


class NoProcessor:
    """For a model whose prompts can only be made of inputs that are ready; also what nnsight's pipeline insists on."""

    tokenizer = PlainTokenizer()
    image_processor = None
    chat_template = None

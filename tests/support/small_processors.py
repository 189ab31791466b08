"""Real processors of both families around a small tokenizer, with their configs, for the tests of prompts."""

from __future__ import annotations

import functools

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLImageProcessorPil,
)

from lostattn.checkpoint.processors import processor_without_video

WORDS = "USER ASSISTANT user assistant system You are helpful How many red squares circles there are first second"
LLAVA_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() }}: {% endif %}"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are helpful<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAVA = ["<pad>", "<s>", "</s>", "<image>"]
_QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
_QWEN += ["<|video_pad|>"]


def _tokenizer(specials: list[str], bos: str | None) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    corpus = [WORDS, *(f" {w}" for w in WORDS.split())] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    # Right, so that a test sees whether a prompt leaves the padding side to the tokenizer.
    return PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="right", pad_token=specials[0], bos_token=bos,
        eos_token=specials[2], additional_special_tokens=specials[1:], clean_up_tokenization_spaces=False,
    )  # fmt: skip


@functools.cache
def llava(side: int = 48, strategy: str = "default", **keywords: bool) -> tuple[LlavaProcessor, LlavaConfig]:
    """Patches of 8, pictures cropped to `side`: 6 x 6 patches of 48."""
    tokenizer = _tokenizer(_LLAVA, "<s>")
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **keywords
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    vision = dict(
        model_type="clip_vision_model", hidden_size=24, intermediate_size=40, projection_dim=24, num_hidden_layers=2,
        num_attention_heads=2, image_size=side, patch_size=8,
    )  # fmt: skip
    text = dict(
        model_type="llama", vocab_size=len(tokenizer), hidden_size=20, intermediate_size=28, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=processor.image_token_id,
        vision_feature_select_strategy=strategy, image_seq_length=36,
    )  # fmt: skip
    return processor, config


@functools.cache
def qwen() -> tuple[object, Qwen2_5_VLConfig]:
    """Patches of 6 merged 2 x 2: a decoder token is 12 pixels wide; windows of 2 x 2 tokens."""
    tokenizer = _tokenizer(_QWEN, None)
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 24 * 24, "longest_edge": 120 * 120}, patch_size=6, merge_size=2, temporal_patch_size=2
    )
    processor = processor_without_video("Qwen2_5_VLProcessor", images, tokenizer, chat_template=QWEN_TEMPLATE)
    vision = dict(
        depth=2, hidden_size=24, intermediate_size=40, num_heads=2, patch_size=6, spatial_merge_size=2,
        temporal_patch_size=2, window_size=24, out_hidden_size=16, fullatt_block_indexes=[1],
    )  # fmt: skip
    text = dict(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=28, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, rope_parameters={"rope_type": "default", "rope_theta": 10.0, "mrope_section": [1, 1, 2]},
        bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config=text, image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"), vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )  # fmt: skip
    return processor, config

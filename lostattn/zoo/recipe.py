"""The two tiny models before training: tokenizer, processor and configuration, as public ones have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lostattn.checkpoint.processors import processor_without_video
from lostattn.data.asking import CHOICES, KINDS, ask
from lostattn.data.scene import COLOURS, PLURALS, SHAPES, draw_scene
from lostattn.errors import UnknownName, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

NAMES = ("tiny-llava", "tiny-qwen2_5-vl")
VOCABULARY = 640
"""An upper bound; training of the tokenizer stops earlier, when every word of the corpus is one token."""

LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% "
    "endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}{% endfor %}"
    "{% endif %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAVA_SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
_QWEN_SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]


def check_name(name: str) -> str:
    """The name itself, if one of `NAMES`.

    Raises:
        UnknownName: otherwise, with the names that there are.
    """
    if name not in NAMES:
        raise UnknownName(f"No tiny model is called {name!r}; there are {', '.join(NAMES)}.{nearest(name, NAMES)}")
    return name


def _corpus(seed: int) -> list[str]:
    """Texts with every word that a prompt or an answer of `shapes` can hold, as often as it is met."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(400):
        scene, other = draw_scene(rng, "train"), draw_scene(rng, "train")
        for kind in KINDS:
            for answer in CHOICES[kind]:
                if text := ask(kind, answer, scene, rng, other):
                    texts.append(f"USER: \n{text} ASSISTANT: {answer}")
                    texts.append(f"user\n{text}\nassistant\n{answer}\nsystem\nYou are a helpful assistant.\n")
    words = [*COLOURS, *SHAPES, *PLURALS.values(), *(a for c in CHOICES.values() for a in c)]
    return texts + [form for word in words for form in (word, f" {word}") for _ in range(4)]


def build_tokenizer(name: str, seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE that encodes any text and gives every word of `shapes` one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    llava = check_name(name) == "tiny-llava"
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        _corpus(seed),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            min_frequency=2,
            special_tokens=_LLAVA_SPECIALS if llava else _QWEN_SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    common: dict[str, Any] = dict(padding_side="left", model_max_length=1024, clean_up_tokenization_spaces=False)
    if not llava:
        return PreTrainedTokenizerFast(
            tokenizer_object=core,
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=["<|im_start|>", *_QWEN_SPECIALS[3:]],
            **common,
        )
    bos = core.token_to_id("<s>")
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        **common,
    )


def build_processor(name: str, seed: int = 0) -> ProcessorMixin:
    """The family's real processor around the tokenizer above."""
    tokenizer = build_tokenizer(name, seed)
    if name == "tiny-llava":
        from transformers import CLIPImageProcessor, LlavaProcessor

        return LlavaProcessor(
            image_processor=CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}),
            tokenizer=tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            image_token="<image>",
            chat_template=LLAVA_TEMPLATE,
        )
    from transformers import Qwen2VLImageProcessor

    image_processor = Qwen2VLImageProcessor(
        size={"shortest_edge": 24 * 24, "longest_edge": 96 * 96},
        patch_size=6,
        temporal_patch_size=2,
        merge_size=2,
    )
    return processor_without_video("Qwen2_5_VLProcessor", image_processor, tokenizer, chat_template=QWEN_TEMPLATE)


def save(model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path) -> None:
    """Write model and processor like a public checkpoint.

    A Qwen2.5-VL processor was put together without its video processor; the settings of one are written all the
    same, so that `AutoProcessor` can build the whole of it where torchvision is installed.
    """
    folder = Path(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    path = folder / "processor_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    if "Qwen" in written["processor_class"]:
        video = {k: v for k, v in written["image_processor"].items() if k != "image_processor_type"}
        written["video_processor"] = {**video, "video_processor_type": "Qwen2VLVideoProcessor"}
        path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def build_model(name: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The untrained model, about 1.8 million parameters, its special ids those of the tokenizer."""
    import torch

    model = _llava(tokenizer) if check_name(name) == "tiny-llava" else _qwen(tokenizer)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for key, value in ids.items():
        setattr(model.generation_config, key, value)
    model.generation_config.do_sample = False
    return model.to(torch.float32)


def _llava(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=224,
        projection_dim=96,
        num_hidden_layers=4,  # the last feeds nothing, as in the public checkpoints: see vision_feature_layer
        num_attention_heads=4,
        image_size=48,
        patch_size=8,
        initializer_range=0.04,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=336,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        initializer_range=0.04,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=36,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    return LlavaForConditionalGeneration(config)


def _qwen(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = dict(
        depth=4,
        hidden_size=96,
        intermediate_size=176,
        num_heads=3,
        in_channels=3,
        patch_size=6,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=24,
        out_hidden_size=128,
        fullatt_block_indexes=[1, 3],
        initializer_range=0.04,
    )
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        # Positions are few: with a small base, rows and columns get a frequency that tells neighbours apart,
        # and some stay low enough for tokens to be found by what they are, wherever they stand.
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 6]},
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config)

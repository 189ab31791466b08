"""The processors of twelve families at their published settings, with tiny random models of the same geometry.

Settings are those of the checkpoints named beside them: sizes, means and deviations, limits, tiles, patches, merges.
Nothing is scaled down; only the models are small (width 16, one layer). Tokenizers are made here, with the special
tokens that each processor asks for. Idefics3 is taken in both its shapes, so the families are thirteen rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from lostattn.processors import processor_without_video

WORDS = "USER ASSISTANT user assistant model system User Assistant You are helpful How many red squares there are Is it"
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
TILES = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]


@dataclass(frozen=True)
class Family:
    """A processor and what is needed to make a model for it.

    Attributes:
        name: as in transformers.
        processor: the real class.
        config: of a tiny model that takes the processor's output.
        cut: of the tower, the modules that mix patches; they are silenced, so that a token shows its own patch alone.
    """

    name: str
    processor: Any
    config: Any
    cut: tuple[str, ...] = ("out_proj", "o_proj", "attn.proj")

    def model(self, seed: int = 0, mixing: bool = False) -> nn.Module:
        """A random model whose vision tower mixes nothing, unless it is asked to."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

        torch.manual_seed(seed)
        kind = NAMES[self.config.model_type]
        model = getattr(transformers, kind)._from_config(self.config, attn_implementation="sdpa").eval()
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
                elif "gate" in path:
                    nn.init.ones_(parameter)
                if not mixing and "vis" in path and any(f"{name}." in path for name in self.cut):
                    nn.init.zeros_(parameter)
        return model


def tokenizer(specials: list[str], bos: str | None = None, **named: str) -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer; `named` are special tokens that a processor looks up by name."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    corpus = [WORDS, *(f" {w}" for w in WORDS.split()), *["\n\n", "\n\n\n", "a\n\nb"] * 5] * 3
    everything = ["<pad>", "<eos>", *dict.fromkeys([*specials, *named.values()])]
    trainer = trainers.BpeTrainer(
        vocab_size=520 + len(everything), special_tokens=everything, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator(corpus, trainer)
    if bos:
        pair = (bos, core.token_to_id(bos))
        core.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[pair])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", bos_token=bos, padding_side="right",
        additional_special_tokens=specials, extra_special_tokens=named, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def template(before: str, image: str, after: str) -> str:
    """A chat template of one turn: images, then text, then the opening of an answer."""
    return (
        "{% for m in messages %}" + before + "{% for c in m['content'] if c['type'] == 'image' %}" + image
        + "{% endfor %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endfor %}"
        + after
    )  # fmt: skip


def text(kind: str, size: int, **more: Any) -> dict[str, Any]:
    """A decoder of one layer and width 16."""
    return {
        "model_type": kind, "vocab_size": size, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": None, "eos_token_id": 1,
        "pad_token_id": 0, "max_position_embeddings": 40000, **more,
    }  # fmt: skip


def tower(kind: str, side: int, patch: int, **more: Any) -> dict[str, Any]:
    """A vision tower of one layer and width 16."""
    return {
        "model_type": kind, "image_size": side, "patch_size": patch, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 2, **more,
    }  # fmt: skip


def token(processor: Any, name: str) -> int:
    """The id of a special token."""
    return int(processor.tokenizer.convert_tokens_to_ids(name))


def llava() -> Family:
    """llava-hf/llava-1.5-7b-hf."""
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, do_center_crop=True, **CLIP
        ),
        tokenizer=tokenizer(["<image>", "<s>"], bos="<s>"), patch_size=14, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", chat_template=template("USER: ", "<image>\n", " ASSISTANT:"),
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=tower("clip_vision_model", 336, 14, projection_dim=16),
        text_config=text("llama", len(processor.tokenizer)), image_token_id=token(processor, "<image>"),
        vision_feature_select_strategy="default", vision_feature_layer=-1, image_seq_length=576,
    )  # fmt: skip
    return Family("llava", processor, config)


PINS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def llava_next() -> Family:
    """llava-hf/llava-v1.6-mistral-7b-hf."""
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, image_grid_pinpoints=PINS, **CLIP
        ),
        tokenizer=tokenizer(["<image>", "<s>"], bos="<s>"), patch_size=14, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", chat_template=template("[INST] ", "<image>\n", " [/INST]"),
    )  # fmt: skip
    config = transformers.LlavaNextConfig(
        vision_config=tower("clip_vision_model", 336, 14, projection_dim=16),
        text_config=text("mistral", len(processor.tokenizer)), image_token_id=token(processor, "<image>"),
        image_grid_pinpoints=PINS, vision_feature_select_strategy="default", vision_feature_layer=-1,
    )  # fmt: skip
    return Family("llava_next", processor, config)


def llava_onevision() -> Family:
    """llava-hf/llava-onevision-qwen2-7b-ov-hf."""
    images = transformers.LlavaOnevisionImageProcessorPil(size={"height": 384, "width": 384}, **HALF)
    before = "<|im_start|>user "
    processor = processor_without_video(
        "LlavaOnevisionProcessor", images,
        tokenizer(["<image>", "<video>", "<|im_start|>", "<|im_end|>"]), num_image_tokens=729,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_9",
        chat_template=template(before, "<image>\n", "<|im_end|>\n<|im_start|>assistant\n"),
    )  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        vision_config=tower("siglip_vision_model", 384, 14, vision_use_head=False),
        text_config=text("qwen2", len(processor.tokenizer)), image_token_id=token(processor, "<image>"),
        video_token_id=token(processor, "<video>"), image_grid_pinpoints=images.image_grid_pinpoints,
        vision_feature_select_strategy="full", vision_feature_layer=-1, vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    return Family("llava_onevision", processor, config)


def _qwen(
    name: str, processor_class: str, patch: int, size: dict[str, int], norm: dict[str, Any], **tower_: Any
) -> Family:
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    processor = processor_without_video(
        processor_class,
        transformers.Qwen2VLImageProcessorPil(size=size, patch_size=patch, merge_size=2, temporal_patch_size=2, **norm),
        tokenizer(marks),
        chat_template=template(
            "<|im_start|>user\n", "<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>\n<|im_start|>assistant\n"
        ),
    )
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    kind = CONFIG_MAPPING[name]
    own = kind().to_dict()
    words = text(own["text_config"]["model_type"], len(processor.tokenizer), rope_parameters=rope)
    if name == "qwen3_5":
        words |= {
            "layer_types": ["full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
            "linear_key_head_dim": 8, "linear_value_head_dim": 8,
            "rope_parameters": {**rope, "partial_rotary_factor": 1.0, "mrope_interleaved": True},
        }  # fmt: skip
    vision = {
        "depth": 1, "num_heads": 2, "intermediate_size": 24, "patch_size": patch, "spatial_merge_size": 2,
        "temporal_patch_size": 2, **tower_,
    }  # fmt: skip
    config = kind(
        text_config=words, vision_config=vision, image_token_id=token(processor, "<|image_pad|>"),
        video_token_id=token(processor, "<|video_pad|>"), vision_start_token_id=token(processor, "<|vision_start|>"),
        vision_end_token_id=token(processor, "<|vision_end|>"),
    )  # fmt: skip
    return Family(name, processor, config)


def qwen2_vl() -> Family:
    """Qwen/Qwen2-VL-7B-Instruct (min_pixels 3136, max_pixels 12845056)."""
    size = {"shortest_edge": 3136, "longest_edge": 12845056}
    return _qwen("qwen2_vl", "Qwen2VLProcessor", 14, size, CLIP, embed_dim=16, hidden_size=16, mlp_ratio=2)


def qwen2_5_vl() -> Family:
    """Qwen/Qwen2.5-VL-7B-Instruct."""
    size = {"shortest_edge": 3136, "longest_edge": 12845056}
    more = {"hidden_size": 16, "out_hidden_size": 16, "window_size": 112, "fullatt_block_indexes": [0]}
    return _qwen("qwen2_5_vl", "Qwen2_5_VLProcessor", 14, size, CLIP, **more)


def qwen3_vl() -> Family:
    """Qwen/Qwen3-VL-8B-Instruct."""
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    more = {"hidden_size": 16, "out_hidden_size": 16, "deepstack_visual_indexes": [], "num_position_embeddings": 2304}
    return _qwen("qwen3_vl", "Qwen3VLProcessor", 16, size, HALF, **more)


def qwen3_5() -> Family:
    """Qwen/Qwen3.5: the processor of Qwen3-VL."""
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    more = {"hidden_size": 16, "out_hidden_size": 16, "deepstack_visual_indexes": [], "num_position_embeddings": 2304}
    return _qwen("qwen3_5", "Qwen3VLProcessor", 16, size, HALF, **more)


def internvl() -> Family:
    """OpenGVLab/InternVL3-8B-hf."""
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    processor = processor_without_video(
        "InternVLProcessor",
        transformers.GotOcr2ImageProcessorPil(
            size={"height": 448, "width": 448}, crop_to_patches=False, min_patches=1, max_patches=12, **IMAGENET
        ),
        tokenizer(["<|im_start|>", "<|im_end|>"], **named), image_seq_length=256,
        chat_template=template("<|im_start|>user\n", "<IMG_CONTEXT>\n", "<|im_end|>\n<|im_start|>assistant\n"),
    )  # fmt: skip
    config = transformers.InternVLConfig(
        vision_config=tower("internvl_vision", [448, 448], [14, 14]),
        text_config=text("qwen2", len(processor.tokenizer)), image_token_id=token(processor, "<IMG_CONTEXT>"),
        image_seq_length=256, downsample_ratio=0.5, vision_feature_layer=-1, vision_feature_select_strategy="default",
    )  # fmt: skip
    return Family("internvl", processor, config, cut=("projection_layer",))


def gemma3(scan: bool = False) -> Family:
    """google/gemma-3-4b-it; `scan`: with pan and scan, which the checkpoint leaves to the caller."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessorPil(
            size={"height": 896, "width": 896}, do_pan_and_scan=None, **HALF
        ),
        tokenizer=tokenizer(["<bos>", "<start_of_turn>", "<end_of_turn>"], bos="<bos>", **named), image_seq_length=256,
        chat_template=template(
            "<bos><start_of_turn>user\n", "<start_of_image>", "<end_of_turn>\n<start_of_turn>model\n"
        ),
    )  # fmt: skip
    if scan:
        processor.images_kwargs = {**processor.images_kwargs, "do_pan_and_scan": True}
    config = transformers.Gemma3Config(
        vision_config=tower("siglip_vision_model", 896, 14, vision_use_head=False),
        text_config=text("gemma3_text", len(processor.tokenizer), layer_types=["full_attention"]),
        image_token_id=token(processor, "<image_soft_token>"), boi_token_id=token(processor, "<start_of_image>"),
        eoi_token_id=token(processor, "<end_of_image>"), mm_tokens_per_image=256,
    )  # fmt: skip
    return Family("gemma3", processor, config)


def paligemma() -> Family:
    """google/paligemma-3b-pt-224."""
    images = transformers.SiglipImageProcessorPil(size={"height": 224, "width": 224}, **HALF)
    images.image_seq_length = 256
    processor = transformers.PaliGemmaProcessor(images, tokenizer(["<bos>", "<image>"], image_token="<image>"))
    processor.tokenizer.bos_token = "<bos>"
    config = transformers.PaliGemmaConfig(
        vision_config=tower("siglip_vision_model", 224, 14, vision_use_head=False),
        text_config=text("gemma", len(processor.tokenizer)), image_token_id=token(processor, "<image>"),
        projection_dim=16,
    )  # fmt: skip
    return Family("paligemma", processor, config)


_IDEFICS = ["<|im_start|>", "<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *TILES]


def _idefics_config(name: str, processor: Any, side: int, patch: int, scale: int) -> Any:
    return CONFIG_MAPPING[name](
        vision_config=tower(f"{name}_vision", side, patch), scale_factor=scale, pad_token_id=0,
        text_config=text("llama", len(processor.tokenizer)), image_token_id=token(processor, "<image>"),
    )  # fmt: skip


def idefics3() -> Family:
    """HuggingFaceM4/Idefics3-8B-Llama3."""
    processor = transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessorPil(
            size={"longest_edge": 4 * 364}, max_image_size={"longest_edge": 364}, do_image_splitting=True, **HALF
        ),
        tokenizer(_IDEFICS), image_seq_len=169,
        chat_template=template("<|im_start|>User:", "<image>", "<end_of_utterance>\nAssistant:"),
    )  # fmt: skip
    return Family("idefics3", processor, _idefics_config("idefics3", processor, 364, 14, 2))


def smolvlm() -> Family:
    """HuggingFaceTB/SmolVLM2-2.2B-Instruct."""
    from transformers.models.smolvlm import processing_smolvlm

    # The processor will not start without a package that writes numbers of frames in words; pictures need none.
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    processor = processor_without_video(
        "SmolVLMProcessor",
        transformers.SmolVLMImageProcessorPil(
            size={"longest_edge": 1536}, max_image_size={"longest_edge": 384}, do_image_splitting=True, **HALF
        ),
        tokenizer(_IDEFICS), image_seq_len=81,
        chat_template=template("<|im_start|>User:", "<image>", "<end_of_utterance>\nAssistant:"),
    )  # fmt: skip
    return Family("smolvlm", processor, _idefics_config("smolvlm", processor, 384, 14, 3))


def mllama(side: int = 560) -> Family:
    """meta-llama/Llama-3.2-11B-Vision-Instruct; `side`: smaller tiles, for tests that run many passes."""
    marks = [
        "<|begin_of_text|>",
        "<|image|>",
        "<|python_tag|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
    ]
    processor = transformers.MllamaProcessor(
        transformers.MllamaImageProcessorPil(size={"height": side, "width": side}, max_image_tiles=4, **CLIP),
        tokenizer(marks, bos="<|begin_of_text|>"),
        chat_template=template(
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n", "<|image|>",
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    )  # fmt: skip
    words = text(
        "mllama_text_model", len(processor.tokenizer), num_hidden_layers=2, cross_attention_layers=[1], bos_token_id=2
    )
    config = transformers.MllamaConfig(
        vision_config={
            "image_size": side, "patch_size": 14, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
            "num_global_layers": 1, "attention_heads": 2, "max_num_tiles": 4, "vision_output_dim": 32,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        text_config=words, image_token_index=token(processor, "<|image|>"),
    )  # fmt: skip
    return Family("mllama", processor, config)


MAKERS: dict[str, Callable[[], Family]] = {
    maker.__name__: maker
    for maker in (
        llava, llava_next, llava_onevision, qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, internvl, gemma3, paligemma,
        idefics3, smolvlm, mllama,
    )
}  # fmt: skip
MAKERS["gemma3 with pan and scan"] = functools.partial(gemma3, scan=True)


@functools.cache
def family(name: str) -> Family:
    """A family, made once."""
    return MAKERS[name]()


@functools.cache
def model(name: str) -> nn.Module:
    """Its tiny model, made once."""
    return family(name).model()

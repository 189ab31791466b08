"""The processors of the families that most people use, at their published settings, with tiny random models for them.

Settings are those of `published`. Nothing is scaled down; only the models are small (width 16, one layer). Tokenizers
are made here, with the special tokens that each processor asks for, and chat templates that write what the checkpoint's
own write (`chat_templates`). Idefics3 is taken in both its shapes, and Gemma 3 with and without pan and scan.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chat_templates
import torch
import transformers
from published import PUBLISHED
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from lostattn.checkpoint.processors import processor_without_video

WORDS = "USER ASSISTANT user assistant model system User Assistant You are helpful How many red squares there are Is it"
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


def images(kind: str, name: str) -> Any:
    """The image processor of a class at a checkpoint's settings."""
    return getattr(transformers, kind)(**PUBLISHED[name].image)


def token(processor: Any, name: str) -> int:
    """The id of a special token."""
    return int(processor.tokenizer.convert_tokens_to_ids(name))


def llava() -> Family:
    processor = transformers.LlavaProcessor(
        image_processor=images("CLIPImageProcessorPil", "llava"), tokenizer=tokenizer(["<image>", "<s>"], bos="<s>"),
        chat_template=chat_templates.LLAVA, **PUBLISHED["llava"].processor,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=tower("clip_vision_model", 336, 14, projection_dim=16),
        text_config=text("llama", len(processor.tokenizer)), image_token_id=token(processor, "<image>"),
        vision_feature_select_strategy="default", vision_feature_layer=-1, image_seq_length=576,
    )  # fmt: skip
    return Family("llava", processor, config)


def llava_next() -> Family:
    processor = transformers.LlavaNextProcessor(
        image_processor=images("LlavaNextImageProcessorPil", "llava_next"),
        tokenizer=tokenizer(["<image>", "<s>", "</s>"], bos="<s>"), chat_template=chat_templates.LLAVA_NEXT,
        **PUBLISHED["llava_next"].processor,
    )  # fmt: skip
    config = transformers.LlavaNextConfig(
        vision_config=tower("clip_vision_model", 336, 14, projection_dim=16),
        text_config=text("mistral", len(processor.tokenizer)), image_token_id=token(processor, "<image>"),
        image_grid_pinpoints=processor.image_processor.image_grid_pinpoints, vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    return Family("llava_next", processor, config)


def llava_onevision(side: int = 384) -> Family:
    """`side`: smaller tiles, for tests of pictures with many of them."""
    pins = [[side * high, side * wide] for high in range(1, 7) for wide in range(1, 7)]
    shown = {**PUBLISHED["llava_onevision"].image, "size": {"height": side, "width": side}}
    processor = processor_without_video(
        "LlavaOnevisionProcessor",
        transformers.LlavaOnevisionImageProcessorPil(**{**shown, "image_grid_pinpoints": pins}),
        tokenizer(["<image>", "<video>", "<|im_start|>", "<|im_end|>"]),
        chat_template=chat_templates.LLAVA_ONEVISION,
        **{**PUBLISHED["llava_onevision"].processor, "num_image_tokens": (side // 14) ** 2},
    )  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        vision_config=tower("siglip_vision_model", side, 14, vision_use_head=False),
        text_config=text("qwen2", len(processor.tokenizer)), image_token_id=token(processor, "<image>"),
        video_token_id=token(processor, "<video>"),
        image_grid_pinpoints=processor.image_processor.image_grid_pinpoints, vision_feature_select_strategy="full",
        vision_feature_layer=-1, vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    return Family("llava_onevision", processor, config)


def _qwen(name: str, processor_class: str, chat_template: str, **tower_: Any) -> Family:
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    processor = processor_without_video(
        processor_class, images("Qwen2VLImageProcessorPil", name), tokenizer(marks), chat_template=chat_template
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
        "depth": 1, "num_heads": 2, "intermediate_size": 24, "patch_size": processor.image_processor.patch_size,
        "spatial_merge_size": 2, "temporal_patch_size": 2, **tower_,
    }  # fmt: skip
    config = kind(
        text_config=words, vision_config=vision, image_token_id=token(processor, "<|image_pad|>"),
        video_token_id=token(processor, "<|video_pad|>"), vision_start_token_id=token(processor, "<|vision_start|>"),
        vision_end_token_id=token(processor, "<|vision_end|>"),
    )  # fmt: skip
    return Family(name, processor, config)


_SIDE_BY_SIDE = {"hidden_size": 16, "out_hidden_size": 16}


def qwen2_vl() -> Family:
    return _qwen("qwen2_vl", "Qwen2VLProcessor", chat_templates.QWEN2_VL, embed_dim=16, hidden_size=16, mlp_ratio=2)


def qwen2_5_vl() -> Family:
    more = {**_SIDE_BY_SIDE, "window_size": 112, "fullatt_block_indexes": [0]}
    return _qwen("qwen2_5_vl", "Qwen2_5_VLProcessor", chat_templates.QWEN2_VL, **more)


def qwen3_vl() -> Family:
    more = {**_SIDE_BY_SIDE, "deepstack_visual_indexes": [], "num_position_embeddings": 2304}
    return _qwen("qwen3_vl", "Qwen3VLProcessor", chat_templates.QWEN3_VL, **more)


def qwen3_5() -> Family:
    """The processor of Qwen3-VL, and a block of thoughts."""
    more = {**_SIDE_BY_SIDE, "deepstack_visual_indexes": [], "num_position_embeddings": 2304}
    return _qwen("qwen3_5", "Qwen3VLProcessor", chat_templates.QWEN3_5, **more)


def internvl() -> Family:
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    processor = processor_without_video(
        "InternVLProcessor", images("GotOcr2ImageProcessorPil", "internvl"),
        tokenizer(["<|im_start|>", "<|im_end|>"], **named), **PUBLISHED["internvl"].processor,
        chat_template=chat_templates.INTERNVL,
    )  # fmt: skip
    config = transformers.InternVLConfig(
        vision_config=tower("internvl_vision", [448, 448], [14, 14]),
        text_config=text("qwen2", len(processor.tokenizer)), image_token_id=token(processor, "<IMG_CONTEXT>"),
        image_seq_length=256, downsample_ratio=0.5, vision_feature_layer=-1, vision_feature_select_strategy="default",
    )  # fmt: skip
    return Family("internvl", processor, config, cut=("projection_layer",))


def gemma3(scan: bool = False) -> Family:
    """`scan`: with pan and scan, which the checkpoint leaves to the caller."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    processor = transformers.Gemma3Processor(
        image_processor=images("Gemma3ImageProcessorPil", "gemma3"),
        tokenizer=tokenizer(["<bos>", "<start_of_turn>", "<end_of_turn>"], bos="<bos>", **named),
        chat_template=chat_templates.GEMMA3,
        **PUBLISHED["gemma3"].processor,
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
    shown = images("SiglipImageProcessorPil", "paligemma")
    shown.image_seq_length = 256
    processor = transformers.PaliGemmaProcessor(shown, tokenizer(["<bos>", "<image>"], image_token="<image>"))
    processor.tokenizer.bos_token = "<bos>"
    config = transformers.PaliGemmaConfig(
        vision_config=tower("siglip_vision_model", 224, 14, vision_use_head=False),
        text_config=text("gemma", len(processor.tokenizer)), image_token_id=token(processor, "<image>"),
        projection_dim=16,
    )  # fmt: skip
    return Family("paligemma", processor, config)


_IDEFICS = ["<image>", "<fake_token_around_image>", "<end_of_utterance>"]


def _idefics_config(name: str, processor: Any, side: int, patch: int, scale: int) -> Any:
    return CONFIG_MAPPING[name](
        vision_config=tower(f"{name}_vision", side, patch), scale_factor=scale, pad_token_id=0,
        text_config=text("llama", len(processor.tokenizer)), image_token_id=token(processor, "<image>"),
    )  # fmt: skip


def idefics3() -> Family:
    """Its marks of rows and columns are plain text to its tokenizer."""
    processor = transformers.Idefics3Processor(
        images("Idefics3ImageProcessorPil", "idefics3"), tokenizer(["<|begin_of_text|>", *_IDEFICS]),
        chat_template=chat_templates.idefics("<|begin_of_text|>"),
        **PUBLISHED["idefics3"].processor,
    )  # fmt: skip
    return Family("idefics3", processor, _idefics_config("idefics3", processor, 364, 14, 2))


def smolvlm() -> Family:
    """Its marks of rows and columns are special tokens."""
    from transformers.models.smolvlm import processing_smolvlm

    # The processor will not start without a package that writes numbers of frames in words; pictures need none.
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    processor = processor_without_video(
        "SmolVLMProcessor", images("SmolVLMImageProcessorPil", "smolvlm"),
        tokenizer(["<|im_start|>", *_IDEFICS, "<global-img>", *TILES]),
        chat_template=chat_templates.idefics("<|im_start|>"),
        **PUBLISHED["smolvlm"].processor,
    )  # fmt: skip
    return Family("smolvlm", processor, _idefics_config("smolvlm", processor, 384, 14, 3))


def mllama(side: int = 560) -> Family:
    """`side`: smaller tiles, for tests that run many passes."""
    marks = [
        "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>",
    ]  # fmt: skip
    shown = {**PUBLISHED["mllama"].image, "size": {"height": side, "width": side}}
    processor = transformers.MllamaProcessor(
        transformers.MllamaImageProcessorPil(**shown),
        tokenizer(marks, bos="<|begin_of_text|>"),
        chat_template=chat_templates.MLLAMA,
    )
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


def _pixtral(name: str, chat_template: str, config: Callable[..., Any]) -> Family:
    import sys

    from transformers.models.pixtral import image_processing_pil_pixtral
    from transformers.utils import is_torchvision_available

    if not is_torchvision_available():
        # The processor takes one function from a module that wants torchvision; this one has the same.
        sys.modules.setdefault("transformers.models.pixtral.image_processing_pixtral", image_processing_pil_pixtral)
    from transformers.models.pixtral.processing_pixtral import PixtralProcessor

    processor = PixtralProcessor(
        images("PixtralImageProcessorPil", name),
        tokenizer(["<s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"], bos="<s>"),
        chat_template=chat_template, **PUBLISHED[name].processor,
    )  # fmt: skip
    made = config(
        vision_config=tower("pixtral", PUBLISHED[name].image["size"]["longest_edge"], processor.patch_size, head_dim=8),
        text_config=text("mistral", len(processor.tokenizer)), image_token_index=token(processor, "[IMG]"),
        vision_feature_layer=-1,
    )  # fmt: skip
    return Family(name, processor, made)


def pixtral() -> Family:
    """Of LLaVA's class, with a tower that takes pictures of any size."""
    return _pixtral(
        "pixtral",
        chat_templates.PIXTRAL,
        functools.partial(transformers.LlavaConfig, vision_feature_select_strategy="full"),
    )


def mistral3() -> Family:
    return _pixtral(
        "mistral3", chat_templates.MISTRAL3, functools.partial(transformers.Mistral3Config, spatial_merge_size=2)
    )


MAKERS: dict[str, Callable[[], Family]] = {
    maker.__name__: maker
    for maker in (
        llava, llava_next, llava_onevision, qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, internvl, gemma3, paligemma,
        idefics3, smolvlm, mllama, pixtral, mistral3,
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

"""The families' processors with their real video processors, which need torchvision; and clips to show them.

Settings of pictures are `published`. Those of videos are what the video processor's class has by itself, and sizes
remembered of the checkpoint that is named; they were not seen in a copy of it.
"""

from __future__ import annotations

import functools
from typing import Any

import families
import numpy as np
import torch
import transformers
from families import Family, images, tokenizer, tower
from families import text as decoder
from published import CLIP, HALF, IMAGENET, PUBLISHED

from lostattn.prompt import build_prompt

TEXT = "How many red squares are there?"
BEFORE, AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"


def template(image: str, video: str, before: str = BEFORE, after: str = AFTER) -> str:
    """A chat template of one turn: images and videos, then text, then the opening of an answer."""
    return (
        "{% for m in messages %}" + before + "{% for c in m['content'] %}{% if c['type'] == 'image' %}" + image
        + "{% elif c['type'] == 'video' %}" + video + "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
        + after
    )  # fmt: skip


def _again(name: str, videos: Any, image: str, video: str) -> Family:
    """A family of the tests of pictures with its real processor class and a video processor."""
    held = families.family(name)
    made, kind = held.processor, getattr(transformers, type(held.processor).__name__)
    processor = kind(
        image_processor=made.image_processor, tokenizer=made.tokenizer, video_processor=videos,
        chat_template=template(image, video), **PUBLISHED[name].processor,
    )  # fmt: skip
    return Family(name, processor, held.config, held.cut)


def _qwen2(name: str) -> Family:
    videos = transformers.Qwen2VLVideoProcessor(
        size={"shortest_edge": 3136, "longest_edge": 12845056}, patch_size=14, merge_size=2, temporal_patch_size=2,
        cap_pixels_per_frame=False, **CLIP,
    )  # fmt: skip
    mark = "<|vision_start|><|{}_pad|><|vision_end|>"
    return _again(name, videos, mark.format("image"), mark.format("video"))


def qwen2_vl() -> Family:
    """Qwen/Qwen2-VL-7B-Instruct (min_pixels 3136, max_pixels 12845056)."""
    return _qwen2("qwen2_vl")


def qwen2_5_vl() -> Family:
    """Qwen/Qwen2.5-VL-7B-Instruct."""
    return _qwen2("qwen2_5_vl")


def _qwen3(name: str) -> Family:
    videos = transformers.Qwen3VLVideoProcessor(
        size={"shortest_edge": 4096, "longest_edge": 25165824}, patch_size=16, merge_size=2, temporal_patch_size=2,
        cap_pixels_per_frame=False, **HALF,
    )  # fmt: skip
    mark = "<|vision_start|><|{}_pad|><|vision_end|>"
    return _again(name, videos, mark.format("image"), mark.format("video"))


def qwen3_vl() -> Family:
    """Qwen/Qwen3-VL-8B-Instruct."""
    return _qwen3("qwen3_vl")


def qwen3_5() -> Family:
    """Qwen/Qwen3.5-9B."""
    return _qwen3("qwen3_5")


def llava_onevision() -> Family:
    """llava-hf/llava-onevision-qwen2-7b-ov-hf."""
    videos = transformers.LlavaOnevisionVideoProcessor(size={"height": 384, "width": 384}, **HALF)
    return _again("llava_onevision", videos, "<image>\n", "<video>\n")


def internvl() -> Family:
    """OpenGVLab/InternVL3-8B-hf."""
    videos = transformers.InternVLVideoProcessor(size={"height": 448, "width": 448}, **IMAGENET)
    return _again("internvl", videos, "<IMG_CONTEXT>\n", "<video>\n")


def smolvlm() -> Family:
    """HuggingFaceTB/SmolVLM2-2.2B-Instruct."""
    videos = transformers.SmolVLMVideoProcessor(
        size={"longest_edge": 1536}, max_image_size={"longest_edge": 384}, do_resize=True,
        video_sampling={"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 384}}, **HALF,
    )  # fmt: skip
    return _again("smolvlm", videos, "<image>", "<video>")


def llava_next_video() -> Family:
    """llava-hf/LLaVA-NeXT-Video-7B-hf."""
    words = tokenizer(["<image>", "<video>", "<s>"], bos="<s>")
    squares = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    processor = transformers.LlavaNextVideoProcessor(
        video_processor=transformers.LlavaNextVideoVideoProcessor(**squares, **CLIP),
        image_processor=images("LlavaNextImageProcessorPil", "llava_next"),
        tokenizer=words, patch_size=14, num_additional_image_tokens=1, vision_feature_select_strategy="default",
        chat_template=template("<image>\n", "<video>\n", "USER: ", " ASSISTANT:"),
    )  # fmt: skip
    config = transformers.LlavaNextVideoConfig(
        vision_config=tower("clip_vision_model", 336, 14, projection_dim=16), text_config=decoder("llama", len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=processor.image_processor.image_grid_pinpoints,
        video_token_index=words.convert_tokens_to_ids("<video>"), vision_feature_layer=-1,
    )  # fmt: skip
    return Family("llava_next_video", processor, config)


def video_llava() -> Family:
    """LanguageBind/Video-LLaVA-7B-hf."""
    words = tokenizer(["<image>", "<video>", "<s>"], bos="<s>")
    squares = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    processor = transformers.VideoLlavaProcessor(
        image_processor=transformers.VideoLlavaImageProcessor(**squares, **CLIP),
        video_processor=transformers.VideoLlavaVideoProcessor(**squares, **CLIP), tokenizer=words, patch_size=14,
        chat_template=template("<image>\n", "<video>\n", "USER: ", " ASSISTANT:"),
    )  # fmt: skip
    config = transformers.VideoLlavaConfig(
        vision_config=tower("clip_vision_model", 224, 14, projection_dim=16), text_config=decoder("llama", len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"), vision_feature_layer=-1,
        video_token_index=words.convert_tokens_to_ids("<video>"),
    )  # fmt: skip
    return Family("video_llava", processor, config)


def video_llama_3() -> Family:
    """DAMO-NLP-SG/VideoLLaMA3-7B."""
    words = tokenizer(["<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<image>"])
    videos = transformers.VideoLlama3VideoProcessor(patch_size=14, merge_size=2, use_token_compression=True, **HALF)
    processor = transformers.VideoLlama3Processor(
        image_processor=transformers.VideoLlama3ImageProcessorPil(patch_size=14, merge_size=1, **HALF),
        tokenizer=words, video_processor=videos, chat_template=template("<|image_pad|>", "<|video_pad|>"),
    )  # fmt: skip
    config = transformers.VideoLlama3Config(
        vision_config={k: v for k, v in tower("video_llama_3_vision", 0, 14).items() if k != "image_size"},
        text_config=decoder("qwen2", len(words)), image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
    )  # fmt: skip
    return Family("video_llama_3", processor, config)


def glm4v() -> Family:
    """zai-org/GLM-4.1V-9B-Thinking."""
    marks = [
        "<|image|>",
        "<|video|>",
        *(f"<|{end}_of_{kind}|>" for kind in ("image", "video") for end in ("begin", "end")),
    ]
    words = tokenizer(marks)
    processor = transformers.Glm4vProcessor(
        image_processor=transformers.Glm4vImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2, **CLIP),
        video_processor=transformers.Glm4vVideoProcessor(patch_size=14, merge_size=2, temporal_patch_size=2, **CLIP),
        tokenizer=words,
        chat_template=template(
            "<|begin_of_image|><|image|><|end_of_image|>", "<|begin_of_video|><|video|><|end_of_video|>", "", "\n"
        ),
    )
    named = {f"{kind}_{end}_token_id": f"<|{mark}_of_{kind}|>" for kind in ("image", "video")
             for end, mark in (("start", "begin"), ("end", "end"))}  # fmt: skip
    config = transformers.Glm4vConfig(
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 16,
            "patch_size": 14, "image_size": 336, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        text_config={
            **decoder("glm4v_text", len(words)),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        image_token_id=words.convert_tokens_to_ids("<|image|>"),
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
        **{name: words.convert_tokens_to_ids(mark) for name, mark in named.items()},
    )  # fmt: skip
    return Family("glm4v", processor, config)


def gemma4() -> Family:
    """google/gemma-4-E4B-it."""
    named = {"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>", "audio_token": "<|audio|>",
             "boa_token": "<|audio>", "eoa_token": "<audio|>"}  # fmt: skip
    words = tokenizer(["<bos>", "<|turn>", "<turn|>", "<|video|>"], bos="<bos>", **named)
    processor = transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_processor=transformers.Gemma4ImageProcessorPil(),
        tokenizer=words, video_processor=transformers.Gemma4VideoProcessor(),
        chat_template=template("<|image|>", "<|video|>", "<|turn>user\n", "<turn|>\n<|turn>model\n"),
    )  # fmt: skip
    config = transformers.Gemma4Config(
        text_config={
            **decoder("gemma4_text", len(words)), "layer_types": ["full_attention"], "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": len(words), "global_head_dim": 8,
        },
        vision_config={
            "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
        },
        audio_config=None,
        image_token_id=words.convert_tokens_to_ids("<|image|>"),
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
    )  # fmt: skip
    return Family("gemma4", processor, config)


MAKERS = {maker.__name__: maker for maker in (
    qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, llava_onevision, internvl, smolvlm, llava_next_video, video_llava,
    video_llama_3, glm4v, gemma4,
)}  # fmt: skip


@functools.cache
def family(name: str) -> Family:
    return MAKERS[name]()


def clip(frames: int, width: int, height: int, seed: int = 0) -> np.ndarray:
    """Frames with no two pixels alike."""
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def prompt(name: str, *videos: Any, images: Any = None, text: str = TEXT, **more: Any) -> Any:
    held = family(name)
    return build_prompt(held.processor, held.config, text, images=images, videos=list(videos), **more)


@functools.cache
def model(name: str) -> Any:
    """Its tiny model, made once, whose tower mixes nothing."""
    made = family(name).model()
    for path, parameter in made.named_parameters():
        if "video_tower" in path and "out_proj" in path:
            parameter.data.zero_()
    return made


@torch.no_grad()
def seen(name: str, given: Any) -> torch.Tensor:
    """What the decoder is given of a prompt: ``[position, width]``."""
    kept = []
    hook = (
        model(name)
        .get_decoder()
        .register_forward_pre_hook(lambda m, a, k: kept.append(k["inputs_embeds"][0].clone()), with_kwargs=True)
    )
    try:
        model(name)(**given.inputs)
    finally:
        hook.remove()
    return kept[0]

"""What checkpoints publish of their processors, value for value, and where each was seen.

`image` is a checkpoint's ``preprocessor_config.json`` and `processor` its ``processor_config.json``, as far as they
shape what comes out. Values were read in public copies and in conversion scripts of transformers, named in `source`;
what could only be inferred, or is remembered, is named in `unconfirmed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
STEPS = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
NEAREST, LANCZOS, BILINEAR, BICUBIC = range(4)  # Pillow's numbers, which the files hold


@dataclass(frozen=True)
class Published:
    """The settings of one checkpoint.

    Attributes:
        checkpoint: the Hugging Face id that the settings are of.
        source: where they were seen.
        image: of its image processor.
        processor: of its processor.
        unconfirmed: what of them, or of the chat template and tokens made after it, was not seen; empty where all was.
    """

    checkpoint: str
    source: str
    image: dict[str, Any]
    processor: dict[str, Any] = field(default_factory=dict)
    unconfirmed: str = ""


_CROPPED = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}, "do_center_crop": True}
_LLAVA = {"patch_size": 14, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
_QWEN2 = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    "resample": BICUBIC, "do_convert_rgb": True, **STEPS, **CLIP,
}  # fmt: skip
_QWEN3 = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2,
    "merge_size": 2, **HALF,
}  # fmt: skip
_SPLIT = {"resample": LANCZOS, "do_convert_rgb": True, "do_image_splitting": True, "do_pad": True, **STEPS, **HALF}
_PIXTRAL = {"resample": BICUBIC, "do_convert_rgb": True, **STEPS, **CLIP}

PUBLISHED = {
    "llava": Published(
        "llava-hf/llava-1.5-7b-hf",
        "preprocessor_config.json of the copy mohitsha/llava-1.5-7b-hf, processor_config.json of the copy "
        "pltops/llava-v2, chat_template.json of the copy FriendliAI/llava-1.5-7b-hf",
        {**_CROPPED, "resample": BICUBIC, "do_convert_rgb": True, **STEPS, **CLIP},
        _LLAVA,
    ),
    "llava_next": Published(
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "the loaded processor as printed in a public write-up of it; the prompt and tokens of transformers' "
        "convert_llava_next_weights_to_hf.py",
        {
            **_CROPPED, "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
            "do_pad": True, "resample": BICUBIC, "do_convert_rgb": True, **STEPS, **CLIP,
        },
        _LLAVA,
    ),
    "llava_onevision": Published(
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "preprocessor_config.json and chat_template.json of its sister llava-hf/llava-onevision-qwen2-7b-si-hf, "
        "config.json of the copy mgoin/llava-onevision-qwen2-7b-ov-hf-bnb-full-4bit; tokens, sizes and strategy of "
        "transformers' convert_llava_onevision_weights_to_hf.py",
        {
            "size": {"height": 384, "width": 384}, "resample": BICUBIC, "do_pad": True, "do_convert_rgb": True,
            "image_grid_pinpoints": [[384 * row, 384 * col] for row in range(1, 7) for col in range(1, 7)],
            **STEPS, **HALF,
        },
        {"num_image_tokens": 729, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"},
        "anyres_max_9 was seen in the original lmms-lab/llava-onevision-qwen2-7b-ov-chat, not in the converted files",
    ),
    "qwen2_vl": Published(
        "Qwen/Qwen2-VL-7B-Instruct",
        "preprocessor_config.json of Qwen/Qwen2-VL-2B and of the duplicate morthens/qwen2-vl-7b-infer",
        _QWEN2,
        unconfirmed="the system text in the chat template is that of Qwen2.5-VL",
    ),
    "qwen2_5_vl": Published(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "preprocessor_config.json of Qwen/Qwen2.5-VL-3B-Instruct-AWQ; the loaded processor with its tokens, and the "
        "chat template, as printed in public write-ups",
        _QWEN2,
    ),
    "qwen3_vl": Published(
        "Qwen/Qwen3-VL-8B-Instruct",
        "preprocessor_config.json of the copy cdreetz/Qwen3-VL-8B-Instruct; the chat template of a merged fine-tune",
        _QWEN3,
    ),
    "qwen3_5": Published(
        "Qwen/Qwen3.5-0.8B",
        "preprocessor_config.json of the duplicates MurphyA/Qwen3.5-0.8B and dcrey7/Qwen3.5-9B-Base; the marks around "
        "a picture and the empty block of thoughts of a public copy of the chat template",
        _QWEN3,
        unconfirmed="whether the block of thoughts is opened or left empty where nothing is said; here it is empty",
    ),
    "internvl": Published(
        "OpenGVLab/InternVL3-8B-hf",
        "transformers' convert_internvl_weights_to_hf.py",
        {
            "size": {"height": 448, "width": 448}, "crop_to_patches": False, "min_patches": 1, "max_patches": 12,
            "resample": BICUBIC, "do_convert_rgb": True, **STEPS, **IMAGENET,
        },
        {"image_seq_length": 256},
        "the script leaves crop_to_patches (which the processor switches on at the call), the numbers of tiles and "
        "resample to transformers' defaults; the file itself was not seen",
    ),
    "gemma3": Published(
        "google/gemma-3-4b-it",
        "preprocessor_config.json of the copy Synthetica-AI/gemma-3-4b-it; chat template and sizes of transformers' "
        "convert_gemma3_weights.py",
        {
            "size": {"height": 896, "width": 896}, "resample": BILINEAR, "do_convert_rgb": None,
            "do_pan_and_scan": None, "pan_and_scan_max_num_crops": None, "pan_and_scan_min_crop_size": None,
            "pan_and_scan_min_ratio_to_activate": None, **STEPS, **HALF,
        },
        {"image_seq_length": 256},
    ),
    "paligemma": Published(
        "google/paligemma-3b-pt-224",
        "preprocessor_config.json of the copy hermanhelf/paligemma; transformers' convert_paligemma_weights_to_hf.py",
        {"size": {"height": 224, "width": 224}, "resample": BICUBIC, "do_convert_rgb": None, **STEPS, **HALF},
    ),
    "idefics3": Published(
        "HuggingFaceM4/Idefics3-8B-Llama3",
        "its own preprocessor_config.json with the chat template, as it was before max_image_size became transformers' "
        "default; tokens of transformers' Idefics3Processor; 169 tokens a tile in vLLM's tests",
        {"size": {"longest_edge": 1456}, "max_image_size": {"longest_edge": 364}, **_SPLIT},
        {"image_seq_len": 169},
        "that the marks of rows and columns are no tokens of its tokenizer, as the processor adds none",
    ),
    "smolvlm": Published(
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "preprocessor_config.json of its predecessor's duplicate alvarobartt/SmolVLM-Instruct-Handler, "
        "processor_config.json of HuggingFaceTB/SmolVLM2-2.2B-Base; prompt and tile size in vLLM's examples",
        {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}, **_SPLIT},
        {"image_seq_len": 81},
        "the preprocessor_config.json of this very checkpoint",
    ),
    "mllama": Published(
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        "preprocessor_config.json of the copy EricB/Llama-3.2-11B-Vision-Instruct-UQFF; tokens of transformers' "
        "convert_mllama_weights_to_hf.py",
        {
            "size": {"height": 560, "width": 560}, "max_image_tiles": 4, "do_pad": True, "resample": BILINEAR,
            "do_convert_rgb": True, **STEPS, **CLIP,
        },
        unconfirmed="the chat template with pictures; the script's is for text",
    ),
    "pixtral": Published(
        "mistral-community/pixtral-12b",
        "its own processor_config.json; preprocessor_config.json of the copy hiaoxui/pixtral",
        {"size": {"longest_edge": 1024}, "patch_size": {"height": 16, "width": 16}, **_PIXTRAL},
        {"patch_size": 16, "image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"},
        "the chat template, taken from that of Mistral 3",
    ),
    "mistral3": Published(
        "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        "its own config.json; the image processor of the copies of Mistral-Small-3.2 and of "
        "Firworks/Devstral-Small-2-24B-Instruct-2512-nvfp4; chat template of transformers' "
        "convert_mistral3_weights_to_hf.py",
        {"size": {"longest_edge": 1540}, "patch_size": 14, **_PIXTRAL},
        {
            "patch_size": 14, "spatial_merge_size": 2, "image_token": "[IMG]", "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
        },
    ),
}  # fmt: skip

"""Processors load with and without torchvision, and give the tokens that the models expect."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers.utils import is_torchvision_available

from lostattn.checkpoint.processors import load_processor, processor_without_video
from lostattn.errors import InputError
from lostattn.zoo import path

_CHAT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]


def _tokens(processor: Any, size: tuple[int, int]) -> tuple[int, Any]:
    """How many image tokens a picture of that width and height becomes, and all inputs."""
    prompt = processor.apply_chat_template(_CHAT, add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[[Image.new("RGB", size)]], return_tensors="pt")
    return int((inputs["input_ids"] == processor.image_token_id).sum()), inputs


@pytest.mark.parametrize("size", [(48, 48), (60, 60), (101, 53)])
def test_llava_gives_every_picture_the_same_tokens(size: tuple[int, int]) -> None:
    n, inputs = _tokens(load_processor(path("tiny-llava")), size)
    assert n == 36
    assert inputs["pixel_values"].shape == (1, 3, 48, 48)


@pytest.mark.parametrize(
    ("size", "grid", "n"), [((48, 48), (8, 8), 16), ((72, 48), (8, 12), 24), ((60, 72), (12, 10), 30)]
)
def test_qwen_gives_tokens_by_size(size: tuple[int, int], grid: tuple[int, int], n: int) -> None:
    found, inputs = _tokens(load_processor(path("tiny-qwen2_5-vl")), size)
    assert found == n
    assert inputs["image_grid_thw"].tolist() == [[1, *grid]]
    assert inputs["mm_token_type_ids"].sum() == n


def test_padding_is_on_the_left_and_kept_by_saving(tmp_path: Path) -> None:
    processor = load_processor(path("tiny-qwen2_5-vl"))
    processor.save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(path("tiny-qwen2_5-vl") / name, tmp_path / name)
    again = load_processor(tmp_path)
    assert again.tokenizer.padding_side == "left"
    assert again.chat_template == processor.chat_template
    before, after = (_tokens(p, (48, 60))[1] for p in (processor, again))
    for a, b in zip(before.values(), after.values(), strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


@pytest.mark.skipif(is_torchvision_available(), reason="with torchvision AutoProcessor does everything")
def test_without_torchvision_the_family_class_is_used_without_video() -> None:
    processor: Any = load_processor(path("tiny-qwen2_5-vl"))
    assert isinstance(processor, transformers.Qwen2_5_VLProcessor)
    assert processor.video_processor is None
    assert "torchvision" not in sys.modules


def test_only_the_video_processor_may_be_missing() -> None:
    processor: Any = load_processor(path("tiny-qwen2_5-vl"))
    with pytest.raises(TypeError, match="image_processor"):
        processor_without_video("Qwen2_5_VLProcessor", None, processor.tokenizer)
    with pytest.raises(TypeError, match="image_processor"):
        processor_without_video("Qwen2_5_VLProcessor", processor.tokenizer, processor.tokenizer)


def test_the_saved_files_serve_a_loader_with_torchvision() -> None:
    # Such a loader builds the video processor from this entry, as transformers itself would have saved it.
    written = json.loads((path("tiny-qwen2_5-vl") / "processor_config.json").read_text())
    video = written["video_processor"]
    assert video["video_processor_type"] == "Qwen2VLVideoProcessor"
    for key in ("patch_size", "temporal_patch_size", "merge_size"):
        assert video[key] == written["image_processor"][key]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder .*nowhere"):
        load_processor(tmp_path / "nowhere")
    with pytest.raises(InputError, match="No processor could be loaded from .*Give a checkpoint of a vision"):
        load_processor(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="No processor could be loaded"):
        load_processor(tmp_path)

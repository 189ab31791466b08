"""Why frames are not prepared with image processors that need no torchvision: their pixels are not quite the same."""

from __future__ import annotations

import torch
import transformers
from clips import clip
from PIL import Image


def test_pillow_resizes_to_other_pixels():
    frames, size = clip(2, 500, 300), {"shortest_edge": 3136, "longest_edge": 12845056}
    videos = transformers.Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False)
    pictures = transformers.Qwen2VLImageProcessorPil(size=size)
    moving = videos(videos=[frames], return_tensors="pt", do_sample_frames=False)["pixel_values_videos"]
    moving = moving.reshape(-1, 3, 2, 14, 14)  # [patch, channel, frame, row, col]
    shades = 255 * torch.tensor(pictures.image_std)[:, None, None]
    for t, frame in enumerate(frames):
        still = pictures(images=[Image.fromarray(frame)], return_tensors="pt")["pixel_values"]
        off = (moving[:, :, t] - still.reshape(-1, 3, 2, 14, 14)[:, :, 0]).abs() * shades
        assert 0.9 < off.max() < 3  # of 255

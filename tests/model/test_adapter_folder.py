"""Folders that hold an adapter alone, where PEFT is not installed: what is missing is said, never left out.

With PEFT they are loaded in tests/weights/libraries/test_adapter_folders.py.
"""

from __future__ import annotations

import json
import shutil

import pytest

import lostattn as la
from lostattn.errors import InputError
from lostattn.zoo import path as bundled


def adapter(folder, **said):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, **said}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize("base", ["tiny-llava", "somebody/some-model", None])
def test_an_adapter_alone_needs_peft(base, tmp_path):
    folder = adapter(tmp_path / "mine", base_model_name_or_path=base)
    for given in (folder, str(folder)):
        with pytest.raises(InputError, match=f"mine holds an adapter .* for {base or 'a model'}.*pip install peft"):
            la.load(given)


def test_an_adapter_beside_a_whole_model_is_not_left_out(tmp_path):
    folder = shutil.copytree(bundled("tiny-llava"), tmp_path / "whole")
    adapter(folder, base_model_name_or_path="tiny-llava")
    with pytest.raises(InputError, match="whole holds an adapter .* pip install peft"):
        la.load(folder)


def test_a_folder_of_neither(tmp_path):
    with pytest.raises(InputError, match="has no config.json; expected a folder that save_pretrained wrote"):
        la.load(tmp_path)

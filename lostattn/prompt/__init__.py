"""From a question, pictures and a processor to a prompt whose tokens know what they are."""

from __future__ import annotations

from lostattn.prompt.batch import Prompt
from lostattn.prompt.build import build_prompt
from lostattn.prompt.token_map import TokenMap

__all__ = ["Prompt", "TokenMap", "build_prompt"]

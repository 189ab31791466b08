"""Chat templates of checkpoints, rendered within bounds: a template is a program, and comes from whoever made it."""

from __future__ import annotations

from lostattn.checkpoint.templates.chat import apply_chat_template

__all__ = ["apply_chat_template"]

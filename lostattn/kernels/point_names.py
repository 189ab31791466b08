"""What the name of a hook point tells of its value."""

from __future__ import annotations


def is_square(name: str) -> bool:
    """Whether a point holds queries against keys, ``[batch, head, query, key]``: scores and patterns."""
    return name.endswith((".hook_pattern", ".hook_attn_scores"))

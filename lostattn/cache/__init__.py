"""What a pass kept: the cache, its decompositions, and its file."""

from __future__ import annotations

from lostattn.cache.activation_cache import ActivationCache

__all__ = ["ActivationCache"]

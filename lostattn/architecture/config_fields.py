"""Fields of a Hugging Face config that may be one number for all layers, or another for each."""

from __future__ import annotations

from typing import Any


def one_for_all(config: Any, name: str) -> Any:
    """What a config says under a name, where it is the same for all layers; else ``None``.

    A config whose layers differ in a field keeps it under ``per_layer_config``, and refuses to say one for all.
    """
    if name in (getattr(config, "per_layer_attributes", None) or ()):
        return None
    return getattr(config, name, None)


def of_layer(config: Any, layer: int, *names: str) -> int | None:
    """The first whole number under these names that a config has for a layer: its own, one of a list, or all's."""
    own = config
    if getattr(config, "is_heterogeneous", False) and layer < len(config.per_layer_config):
        own = config.per_layer_config[layer]
    for name in names:
        value = getattr(own, name, None)
        if isinstance(value, list | tuple) and layer < len(value):
            value = value[layer]
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None

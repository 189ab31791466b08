"""A server without torchvision reads pictures by PIL, but refuses processors that can also read videos.

Put beside the server's packages and imported when its Python starts: once transformers' AutoProcessor is imported, it
builds such a processor from its parts, without the video reader. On a server with torchvision none of this is needed.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys

TARGET = "transformers.models.auto.processing_auto"


def _from_parts(source, options):
    """The processor of a checkpoint without its video processor."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    known = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
    config = transformers.AutoConfig.from_pretrained(source, **known)
    family = getattr(transformers, PROCESSOR_MAPPING_NAMES[config.model_type])

    class Pictures(family):
        def check_argument_for_proper_class(self, name, value):
            if not (name == "video_processor" and value is None):
                return super().check_argument_for_proper_class(name, value)

    Pictures.__name__ = family.__name__
    return Pictures(
        image_processor=transformers.AutoImageProcessor.from_pretrained(source, **known),
        tokenizer=transformers.AutoTokenizer.from_pretrained(source, **known),
        video_processor=None,
    )


def _mended(module):
    asked = module.AutoProcessor.from_pretrained.__func__

    def from_pretrained(cls, source, **options):
        try:
            return asked(cls, source, **options)
        except (OSError, ImportError, ValueError):
            if importlib.util.find_spec("torchvision") is not None:
                raise
            return _from_parts(source, options)

    module.AutoProcessor.from_pretrained = classmethod(from_pretrained)


class _Mending(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        loaded = spec.loader.exec_module

        def exec_module(module):
            loaded(module)
            _mended(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Mending())

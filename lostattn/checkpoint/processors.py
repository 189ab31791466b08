"""Loading a model's processor, with or without torchvision.

With torchvision, `AutoProcessor` does everything. Without it transformers reads pictures by PIL, but
refuses the processors of families that also read videos (Qwen2-VL and its kin), because their video
processor cannot be built. Such a processor is put together here from its parts, for pictures alone.
Nothing is ever installed.
"""

from __future__ import annotations

import functools
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lostattn.errors import InputError

if TYPE_CHECKING:
    from transformers import ProcessorMixin


def load_processor(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> ProcessorMixin:
    """The processor of a checkpoint.

    Args:
        source: a Hugging Face id or a folder.
        revision: branch, tag or commit of a Hugging Face id.
        trust_remote_code: run a processor's code from the checkpoint, as in transformers.
        kwargs: handed on to `from_pretrained`.

    Returns:
        What `AutoProcessor` gives. Without torchvision, for a family whose processor wants a video
        processor, the family's own processor class with `video_processor=None`; its tokens and pixels are
        the same.

    Raises:
        InputError: there is no such checkpoint, or its processor cannot be built; the message says why.
    """
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    options = {"revision": revision or "main", "trust_remote_code": trust_remote_code, **kwargs}
    if isinstance(source, Path) and not source.exists():
        raise InputError(f"There is no folder {source}; give a checkpoint's folder or its Hugging Face id.")
    try:
        return AutoProcessor.from_pretrained(source, **options)
    except Exception as error:  # transformers raises ImportError, OSError, ValueError or TypeError, by family
        if not is_torchvision_available() and (found := _from_parts(source, options)) is not None:
            return found
        hint = (
            ""
            if is_torchvision_available()
            else (" Its processor may need torchvision: install the build that belongs to your torch.")
        )
        raise InputError(
            f"No processor could be loaded from {str(source)!r}: {_first_line(error)} "
            f"Give a checkpoint of a vision-language model (a Hugging Face id or a folder).{hint}"
        ) from error


def processor_without_video(class_name: str, image_processor: Any, tokenizer: Any, **arguments: Any) -> ProcessorMixin:
    """The processor of a family that also reads videos, for pictures alone.

    Args:
        class_name: the family's processor in transformers, for example `"Qwen2_5_VLProcessor"`.
        image_processor: any image processor of the family.
        tokenizer: the family's tokenizer.
        arguments: whatever else the processor's class takes, above all `chat_template`.
    """
    return _class_without_video(class_name)(
        image_processor=image_processor, tokenizer=tokenizer, video_processor=None, **arguments
    )


def _from_parts(source: str | os.PathLike[str], options: dict[str, Any]) -> ProcessorMixin | None:
    """The processor from its parts; None where the family has no video processor to leave out."""
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(source, **options)
        class_name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
        base: Any = getattr(transformers, class_name) if class_name else None
        if base is None or "video_processor" not in base.get_attributes():
            return None
        written, _ = base.get_processor_dict(source, **options)
        known = set(inspect.signature(base.__init__).parameters) - {"self", *base.get_attributes()}
        return processor_without_video(
            class_name,
            AutoImageProcessor.from_pretrained(source, **options),
            AutoTokenizer.from_pretrained(source, **options),
            **{key: value for key, value in written.items() if key in known},
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError):
        return None  # the caller tells of the first error, which says more


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0][:300] if lines else type(error).__name__
    return text if text.endswith((".", "!", "?")) else text + "."


@functools.cache
def _class_without_video(class_name: str) -> type[ProcessorMixin]:
    """The family's processor class, which lets `video_processor=None` pass and checks the rest as ever."""
    import transformers

    base: Any = getattr(transformers, class_name)

    def check_argument_for_proper_class(self: Any, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor" and argument is None:
            return None
        return base.check_argument_for_proper_class(self, argument_name, argument)

    def to_dict(self: Any) -> dict[str, Any]:
        return {key: value for key, value in base.to_dict(self).items() if key != "video_processor"}

    def save_pretrained(self: Any, save_directory: Any, **kwargs: Any) -> Any:
        # The parts are saved one by one; the one that is missing must not be asked to save itself.
        self.get_attributes = lambda: [a for a in base.get_attributes() if a != "video_processor"]
        try:
            return base.save_pretrained(self, save_directory, **kwargs)
        finally:
            del self.get_attributes

    members = {
        "__doc__": f"{class_name} for pictures alone, without a video processor.",
        "__module__": __name__,
        "check_argument_for_proper_class": check_argument_for_proper_class,
        "to_dict": to_dict,
        "save_pretrained": save_pretrained,
    }
    if "apply_chat_template" in vars(base):
        # A family's own asks its video processor for a number of frames, whether or not there is a video.
        members["apply_chat_template"] = transformers.ProcessorMixin.apply_chat_template
    # The family's name is kept: it is written into processor_config.json, which any other loader reads.
    return type(class_name, (base,), members)

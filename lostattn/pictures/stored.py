"""Pictures that stay files until they are looked at: a data set of thousands fits in memory as it fits on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from PIL import Image

from lostattn.pictures.loading import load_picture


class StoredPictures(Sequence):  # not of pictures: checkers of types would read one each time
    """The pictures of a question as the bytes of their files; each is read as :func:`load_picture` does it, when asked.

    Equal to a tuple of the same pictures.

    Args:
        files: the bytes of each picture's file.
        place: whose pictures they are, for messages: ``"question '7'"``.
    """

    def __init__(self, files: Sequence[bytes], place: str) -> None:
        self.files = tuple(files)
        self.place = place

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Image.Image, ...]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | tuple[Image.Image, ...]:
        """One picture, or some.

        Raises:
            InputError: the file is corrupted or no picture that a prompt takes; the message names the question.
        """
        if isinstance(index, slice):
            return tuple(self[k] for k in range(*index.indices(len(self))))
        k = range(len(self))[index]
        return load_picture(self.files[k], f"image {k} of {self.place}")

    def __iter__(self) -> Iterator[Image.Image]:
        return (self[k] for k in range(len(self)))

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, StoredPictures) and self.files == other.files:
            return True
        return isinstance(other, StoredPictures | tuple) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as that of a picture

    def __repr__(self) -> str:
        return f"StoredPictures({len(self)} of {self.place})"

"""Files and folders written whole or not at all, and what a killed writer left.

What is written is made in a hidden folder beside its place and put there in one step: see
:mod:`~lostattn.files.publishing`. A folder of several files is sealed by its ``run.json``, which tells a whole run from
a torn one: see :mod:`~lostattn.files.seal`.
"""

from lostattn.files.journal import Journal
from lostattn.files.places import PathLike, writable_folder
from lostattn.files.publishing import write_file, write_folder, write_text
from lostattn.files.seal import check_run
from lostattn.files.tensors import write_tensors

__all__ = [
    "Journal",
    "PathLike",
    "check_run",
    "writable_folder",
    "write_file",
    "write_folder",
    "write_tensors",
    "write_text",
]

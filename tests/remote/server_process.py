"""A process as a server's: nnsight, torch, transformers, einops, numpy, pillow and what these need; nothing else.

``server_process.py FOLDER run`` rebuilds and runs the requests in ``FOLDER/blobs.pt`` on the model saved there and
writes what they give to ``sent.pt``; ``read`` only rebuilds functions. Both inspect what was sent.
"""

from __future__ import annotations

import ast
import importlib.metadata
import io
import linecache
import re
import sys
import textwrap
import types
from pathlib import Path

ROOTS = ("nnsight", "torch", "transformers", "einops", "numpy", "pillow")
BYTECODE = {"_make_function", "_make_cell", "CodeType"}


def allowed() -> set[str]:
    """The import names of the roots and of everything that they require."""
    todo, distributions = list(ROOTS), set()
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in distributions:
            continue
        distributions.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        todo += [re.match(r"[\w.-]+", need).group() for need in needed if "extra ==" not in need]
    by_import = importlib.metadata.packages_distributions()
    return {
        module
        for module, owners in by_import.items()
        if any(re.sub(r"[-_.]+", "-", owner).lower() in distributions for owner in owners)
    }


class Present:
    """Stands for all of Python's finders, and finds what a server has."""

    def __init__(self, finders) -> None:
        self.finders = list(finders)
        self.present = allowed() | set(sys.stdlib_module_names)
        self.installed = {"lostattn", *importlib.metadata.packages_distributions()}

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in self.installed and top not in self.present:
            return None
        for finder in self.finders:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None

    def find_distributions(self, *arguments, **keywords):
        for finder in self.finders:
            if hasattr(finder, "find_distributions"):
                yield from finder.find_distributions(*arguments, **keywords)


def traps(name: str, source: str) -> list[str]:
    """What in a function's source does not survive the way to a server."""
    found = []
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(f"{name} imports inside")
        if isinstance(node, ast.AnnAssign):
            found.append(f"{name} annotates a local")
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.decorator_list:
            found.append(f"{name} is decorated")
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "super" and not node.args:
            found.append(f"{name} calls super() without arguments")
    return found


def inspecting(base, present: set[str], sources: dict[str, str]):
    """nnsight's unpickler, which also looks at every name and every source that comes by."""

    class Inspecting(base):
        def find_class(self, module, name):
            assert module.partition(".")[0] in present, f"the request names {module}.{name}, which no server has"
            assert name not in BYTECODE, f"the request holds bytecode ({module}.{name})"
            found = super().find_class(module, name)
            if name == "_builtin_type":  # how pickles name the types of Python that have no name of their own
                return lambda kind: getattr(types, "none" if kind in BYTECODE else kind)
            if name != "_load_function":
                return found

            def load(source, called, defaults, kwdefaults, annotations, file, line):
                sources[f"{called} ({file}:{line})"] = source
                for value in (annotations or {}).values():
                    assert isinstance(value, str | type(None)), f"{called} carries the annotation {value!r}"
                return found(source, called, defaults, kwdefaults, annotations, file, line)

            return load

    return Inspecting


def main(folder: Path, what: str) -> None:
    """Rebuild, inspect, and run."""
    server = Present(sys.meta_path)
    sys.meta_path[:] = [server]
    for module in ("lostattn", "jaxtyping", "beartype", "pandas"):
        try:
            __import__(module)
        except ModuleNotFoundError:
            continue
        raise AssertionError(f"{module} can be imported here")
    import torch
    from nnsight.intervention.serialization import CustomCloudUnpickler

    sources: dict[str, str] = {}
    unpickler = inspecting(CustomCloudUnpickler, server.present, sources)
    blobs = torch.load(folder / "blobs.pt", weights_only=False)
    if what == "read":
        functions = unpickler(io.BytesIO(blobs["functions"]), {}).load()
        print(f"{len(functions)} functions")
    else:
        torch.save({name: ran(blob, folder, unpickler) for name, blob in blobs.items()}, folder / "sent.pt")
    ours = {name: source for name, source in sources.items() if "/nnsight/" not in name}
    found = [trap for name, source in ours.items() for trap in traps(name, source)]
    assert not found, found
    assert ours, "no function was sent by its source"


def ran(blob: bytes, folder: Path, unpickler):
    """What a request gives on the saved model."""
    import nnsight
    import torch
    from nnsight.schema.request import RequestModel
    from nnsight.tracing.globals import BLOCKS, SOURCES
    from nnsight.tracing.tracer import _saves, dec, inc
    from transformers import AutoModelForImageTextToText

    for cache in (BLOCKS, SOURCES, linecache.cache):
        cache.clear()  # of the request before this one, whose block stood in the same file
    module = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").eval()
    module.requires_grad_(False)

    class Tokenizer:
        is_fast, chat_template, pad_token, eos_token, bos_token, all_special_ids = False, None, None, None, None, ()

    class Processor:
        tokenizer, image_processor, chat_template = Tokenizer(), None, None

    model = nnsight.TransformersModel(module, task="image-text-to-text", processor=Processor())
    tracer = RequestModel.deserialize(blob, model._remoteable_persistent_objects(), unpickler=unpickler)
    inc()
    try:
        with torch.no_grad():
            tracer.execute(tracer.info.code)
        marked = _saves()
        saved = {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in marked}
    finally:
        dec()
    assert list(saved) == ["sent"], list(saved)
    return saved["sent"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

"""A hook of mkdocs: the API reference, of what a user imports and of what an extension is written against.

A page each for ``lostattn`` itself, for every module that it exports, for the errors, and for the rooms ``plan`` and
``points`` (a new intervention, a new hook point). Everything else is for reading in the source. The names are those of
the packages' ``__all__``, read at every build, so that a new one is documented and a renamed one not forgotten.
"""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
EXTENSIONS = ("errors", "plan", "points")
WHOLE = "\n    options:\n      inherited_members: true"  # a model and a cache are built up of several classes


def _source(module: str) -> Path:
    """The file of a module; of a lazy package its stub, which names what it exports."""
    path = ROOT / Path(*module.split("."))
    return next(
        file for file in (path / "__init__.pyi", path / "__init__.py", path.with_suffix(".py")) if file.is_file()
    )


def _exports(module: str) -> dict[str, str]:
    """Where each public name that a package hands on is defined, by its name."""
    body = ast.parse(_source(module).read_text(encoding="utf-8")).body
    listed = next((ast.literal_eval(node.value) for node in body if _lists(node)), None)
    found = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lostattn")
        for alias in node.names
    }
    return {name: _definition(path) for name, path in found.items() if listed is None or name in listed}


def _lists(node: ast.stmt) -> bool:
    """Whether a statement is ``__all__ = […]``."""
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return isinstance(target, ast.Name) and target.id == "__all__" and isinstance(node.value, ast.List)


def _definition(path: str) -> str:
    """The path of a name where it is defined, through the packages that hand it on."""
    module, _, name = path.rpartition(".")
    if not (ROOT / Path(*module.split("."))).is_dir():
        return path
    again = _exports(module).get(name) if module != "lostattn" else None
    return again or path


def _defines(module: str) -> bool:
    """Whether a package's own file defines public functions or classes."""
    body = ast.parse(_source(module).read_text(encoding="utf-8")).body
    return any(isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_") for n in body)


def _page(module: str, elsewhere: set[str]) -> str:
    """One module, or a package with the names that it hands on and that no other page holds."""
    folder = ROOT / Path(*module.split("."))
    if not folder.is_dir():
        return f"# {module}\n\n::: {module}\n"
    if _source(module).name == "__init__.py" and not _exports(module) and not _defines(module):  # no face: its files
        files = [f"{module}.{file.stem}" for file in sorted(folder.glob("*.py")) if file.stem != "__init__"]
        return f"# {module}\n\n" + "\n\n".join(f"::: {name}" for name in files) + "\n"
    names = sorted(set(_exports(module).values()) - elsewhere)
    elsewhere.update(names)
    own = "" if _defines(module) else "\n    options:\n      members: false"
    return f"# {module}\n\n" + "\n\n".join([f"::: {module}{own}", *(f"::: {name}" for name in names)]) + "\n"


def _pages() -> dict[str, str]:
    """The text of each page, by its name."""
    exported = _exports("lostattn")
    modules = sorted(name for name, path in exported.items() if path == f"lostattn.{name}")
    held = {f"lostattn.errors.{name}" for name in ("InputError", "LostAttnError", "UnknownName", "UnsupportedModel")}
    # What is exported twice stands where it belongs: with the interventions, not on the page of the package.
    texts = {name: _page(f"lostattn.{name}", held) for name in (*EXTENSIONS, *modules)}
    rest = [path for name, path in sorted(exported.items()) if name not in modules and path not in held]
    first = [exported["load"], exported["LVLM"]]  # where everybody begins
    order = [*first, *(path for path in rest if path not in first)]
    top = {"lostattn": "# lostattn\n\n" + "\n\n".join(f"::: {path}{WHOLE}" for path in order) + "\n"}
    return {**top, **{name: texts[name] for name in (*modules, *EXTENSIONS)}}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference at the end of the navigation."""
    config.nav.append({"API reference": [{page: f"reference/{page}.md"} for page in _pages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    for page, text in _pages().items():
        files.append(File.generated(config, f"reference/{page}.md", content=text))
    return files

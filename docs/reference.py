"""A hook of mkdocs: the API reference, one page for each module or package of lostattn.

The pages are made from the file tree at every build, so a new module is documented, and a renamed one is not
forgotten, without a list to keep.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).resolve().parent.parent / "lostattn"


def _pages() -> dict[str, str]:
    """The text of each page, by its name: a package's page holds all its public modules."""
    names: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if len(parts) > 1 and not any(part.startswith("_") for part in parts):
            names.setdefault(parts[1], []).append(".".join(parts))
    return {
        page: f"# {page}\n\n" + "\n\n".join(f"::: {module}" for module in sorted(modules)) + "\n"
        for page, modules in names.items()
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference at the end of the navigation."""
    config.nav.append({"API reference": [{page: f"reference/{page}.md"} for page in _pages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    for page, text in _pages().items():
        files.append(File.generated(config, f"reference/{page}.md", content=text))
    return files

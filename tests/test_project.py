"""The project holds together: what it installs, imports and promises is what is there."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import lostattn

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(r) for r in [*PROJECT["dependencies"], *(r for rs in EXTRAS.values() for r in rs)]]
PINNED = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(line.split("==")[0]): Version(line.split("==")[1]) for line in PINNED}

# Needed by a part of the toolkit only, and slow to import.
LATE = ("matplotlib", "circuitsvis", "transformer_lens", "pandas", "pyarrow", "datasets")


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_is_pinned_to_a_version_it_allows(requirement):
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier
    assert [s for s in requirement.specifier if s.operator == ">="], "say which version it needs"


def test_a_pin_is_a_name_and_a_public_version():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in PINNED)
    assert not [name for name in PINS if re.match("nvidia|cuda|triton|torchvision", name)]
    assert len(PINS) == len(PINNED)


def test_torch_is_the_one_that_was_pinned():
    import torch

    assert Version(importlib.metadata.version("torch")).public == str(PINS["torch"])
    assert Version(torch.__version__).public == str(PINS["torch"])
    assert torch.get_num_threads() == 1


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert lostattn.__version__ == version == importlib.metadata.version("lostattn")
    assert re.search(rf"^## {re.escape(version)} ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_import_has_no_side_effects_and_brings_nothing_that_can_come_later(tmp_path):
    code = "import sys, lostattn; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert sorted(set(done.stdout.split()) & set(LATE)) == []
    assert "lostattn" in done.stdout.split()
    assert list(tmp_path.iterdir()) == []


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))])
def test_every_make_target_that_a_page_names_exists(page):
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert named <= _targets()
    assert page != "README.md" or {"demo", "test"} <= named


# Run by hand: they compare with peers, start a server of two gigabytes, go through all families, or run a part of the
# tests.
BY_HAND = {"bench", "test-ndif", "conformance", "test-fast"}


def test_ci_runs_every_target_of_the_makefile():
    loop = re.search(r"^for target in (.*); do$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert loop and set(loop[1].split()) == _targets() - {"help"} - BY_HAND


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))])
def test_every_name_that_a_page_s_python_uses_exists(page):
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL):
        compile(block, page, "exec")
        for dotted in re.findall(r"\bla((?:\.[A-Za-z_]\w*)+)", block):
            found: object = lostattn
            for name in dotted.removeprefix(".").split("."):
                assert hasattr(found, name), f"{page} uses la{dotted}, and there is no {name!r} in {found!r}"
                found = getattr(found, name)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-llava", "tiny-qwen2_5-vl"])
def test_the_first_session_of_the_readme_runs(model, monkeypatch, tmp_path):
    """As it stands there, with fewer questions."""
    monkeypatch.chdir(tmp_path)  # nothing of the checkout but the installed package
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    session = "\n".join(blocks)
    for there, here in (('la.load("tiny-llava")', f'la.load("{model}")'), ("n=200", "n=8")):
        assert there in session
        session = session.replace(there, here)
    # A file, since a trace reads its own source.
    script = tmp_path / "session.py"
    script.write_text(session)
    names = runpy.run_path(str(script))
    assert isinstance(names["answer"], str)
    assert {"layer", "update", "rid", "mixig"} <= set(names["updates"].columns)
    assert {"untouched", "gaussian"} <= set(names["answers"]["condition"])


def test_no_tracked_file_holds_a_path_of_somebody_s_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    # Put together here, so that this file does not match itself.
    pattern = re.compile(r"(?<![\w.~$}/])/(?:" + "|".join(["work", "root", "home", "Users"]) + r")/\w")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in {".safetensors", ".png", ".parquet"} or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize("package", ["lostattn", "lostattn.view"])
def test_the_stub_of_a_lazy_package_names_what_it_exports_and_from_where(package):
    module = importlib.import_module(package)
    stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    said = {
        alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }
    assert sorted(said) == sorted(module.__all__) == dir(module)
    for name, value in said.items():
        assert getattr(module, name) is value

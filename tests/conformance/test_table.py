"""The table of supported models, and the process that fills it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lostattn.checkpoint.extra_packages import PACKAGES
from lostattn.conformance.judge import Verdict
from lostattn.conformance.scan import scan, write_table
from lostattn.conformance.table import in_page, markdown, summary
from lostattn.errors import InputError

pytestmark = pytest.mark.slow

VERDICTS = [
    Verdict("one", "eager", "passed", kinds="plain", points=40, checks=9, layout="whole", image="6 tokens",
            comparisons={"patterns": {"worst": 2e-6, "allowed": 1e-5}, "identity": {"worst": 0.0, "allowed": 0.0},
                         "bfloat16: patterns": {"worst": 2e-3, "allowed": 5e-2}, "steps": {"absent": "no generation"}}),
    Verdict("two", "eager", "failed", remarks="a | b"),
    Verdict("one", "sdpa", "not built", remarks="no such kernel"),
    Verdict("two", "sdpa", "passed", kinds="parallel", points=31),
]  # fmt: skip


def test_the_summary_counts_outcomes_by_kernel():
    assert summary(VERDICTS) == "eager: 1 of 2 passed; 1 failed\nsdpa: 1 of 2 passed; 1 not built"


def test_a_row_shows_every_kernel_and_why_one_of_them_does_not_pass():
    head, _, one, two = markdown(VERDICTS).splitlines()
    assert head.startswith("| family | layers | points | eager | sdpa | layers differ in | compared |")
    assert one.startswith(
        "| one | plain | 40 | passed | not built |  | 3 of 3, 2e-06; steps: n/a: no generation | whole | 6 tokens |"
    )
    assert one.endswith("sdpa: no such kernel |")
    assert two.startswith("| two | parallel | 31 | failed | passed |") and "a / b" in two


def test_the_table_is_written_whole(tmp_path):
    paths = write_table(VERDICTS, tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["conformance.json", "conformance.md", "run.json"]
    assert [Verdict(**row) for row in json.loads(paths[0].read_text())] == VERDICTS


def test_a_scan_judges_in_a_process_of_its_own(tmp_path):
    git, fast_vlm = scan(["git", "fast_vlm"], ["sdpa"], packages=tmp_path)
    assert (git.family, git.kernel, git.outcome) == ("git", "sdpa", "not built")
    assert "scaled_dot_product_attention" in git.remarks
    assert fast_vlm.outcome == "not built"
    assert "fast_vlm is built with a package that is not here" in fast_vlm.remarks
    assert "`make conformance` installs them into a folder of their own" in fast_vlm.remarks


def test_packages_of_a_folder_are_found_though_torchvision_cannot_load_its_library(tmp_path):
    """The import of torchvision describes operators that its library would have declared."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "torchvision" / "_C.so").write_text("of another build of torch")
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import torch\ntorch.library.register_fake('torchvision::nms')(lambda *boxes: None)\n"
    )
    code = (
        "from lostattn.checkpoint.extra_packages import missing_packages, use\n"
        f"assert use({str(tmp_path)!r}) and not use({str(tmp_path / 'none')!r}) and not use('')\n"
        "import torchvision; print(*missing_packages(), torchvision.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "torchvision" / "__init__.py")]


def test_a_page_gets_its_summary_and_its_table_made_new():
    page = "a\n<!-- summary -->\nold\n<!-- end of summary -->\nb\n<!-- table -->\n<!-- end of table -->\nc\n"
    new = in_page(page, VERDICTS)
    assert "old" not in new and new.startswith("a\n<!-- summary -->\n```text\neager: 1 of 2") and new.endswith("\nc\n")
    assert markdown(VERDICTS) in new and in_page(new, VERDICTS) == new
    with pytest.raises(InputError, match="the page has no place for the table: expected '<!-- table -->'"):
        in_page(page.replace("<!-- table -->", ""), VERDICTS)
    assert in_page((Path(__file__).parents[2] / "docs/models.md").read_text(), VERDICTS)

"""The line of the user's own in a server's traceback, wherever the toolkit and the user's files lie."""

from __future__ import annotations

from pathlib import Path

import pytest

import lostattn
from lostattn.remote.users_line import PACKAGE, users_line

KERNEL = PACKAGE / "kernels" / "walker.py"


def traceback(*files: object) -> list[str]:
    lines = ["Traceback (most recent call last):"]
    for i, file in enumerate(files):
        lines += [f'  File "{file}", line {i + 1}, in f', f"    line_{i}()"]
    return [*lines, "RuntimeError: oops"]


@pytest.mark.parametrize("name", ["lostattn", "lostattn/tests", "two words", "it's", "tests", "torch", "früh"])
def test_the_users_line_is_found_in_a_folder_of_any_name(name, tmp_path):
    mine = tmp_path / name / "mine.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("x\n")
    told = users_line(traceback(mine, KERNEL, "/env/lib/python3.12/site-packages/nnsight/x.py"))
    assert told == f'File "{mine}", line 1, in f\n    line_0()'
    marked = users_line(traceback(f"[f:1] {mine}", f"[run_pass:1] {KERNEL}"))
    assert marked == f'File "[f:1] {mine}", line 1, in f\n    line_0()'


def test_a_file_in_the_checkout_beside_the_package_is_the_users():
    here = Path(__file__)
    assert here.is_relative_to(PACKAGE.parent)
    assert "line_0()" in users_line(traceback(here, KERNEL))


def test_the_toolkits_own_lines_are_told_to_nobody(tmp_path):
    assert users_line(traceback(KERNEL, lostattn.__file__)) == ""
    link = tmp_path / "link"
    link.symlink_to(PACKAGE)
    assert users_line(traceback(link / "kernels" / "walker.py")) == ""
    elsewhere = "/another/machine/lostattn/kernels/walker.py"
    assert not Path(elsewhere).exists() and users_line(traceback(elsewhere)) == ""
    assert "line_0()" in users_line(traceback("/another/machine/lostattn/mine.py"))
    assert users_line(["no frames at all"]) == "" == users_line([])
    assert users_line(['  File "\x00", line 1, in f']) == 'File "\x00", line 1, in f\n    '

"""The table of supported models, and the process that fills it."""

from __future__ import annotations

import json

from lostattn.conformance import Verdict, markdown, scan, summary, write_table

VERDICTS = [
    Verdict("one", "eager", "passed", kinds="plain", points=40, checks=9, layout="whole", image="6 tokens"),
    Verdict("two", "eager", "failed", remarks="a | b"),
    Verdict("one", "sdpa", "not built", remarks="no such kernel"),
    Verdict("two", "sdpa", "passed", kinds="parallel", points=31),
]  # fmt: skip


def test_the_summary_counts_outcomes_by_kernel():
    assert summary(VERDICTS) == "eager: 1 of 2 passed; 1 failed\nsdpa: 1 of 2 passed; 1 not built"


def test_a_row_shows_every_kernel_and_why_one_of_them_does_not_pass():
    head, _, one, two = markdown(VERDICTS).splitlines()
    assert head.startswith("| family | layers | points | eager | sdpa |")
    assert one.startswith("| one | plain | 40 | passed | not built | whole | 6 tokens |")
    assert one.endswith("sdpa: no such kernel |")
    assert two.startswith("| two | parallel | 31 | failed | passed |") and "a / b" in two


def test_the_table_is_written_whole(tmp_path):
    paths = write_table(VERDICTS, tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["conformance.json", "conformance.md"]
    assert [Verdict(**row) for row in json.loads(paths[0].read_text())] == VERDICTS


def test_a_scan_judges_in_a_process_of_its_own():
    (verdict,) = scan(["git"], ["sdpa"])
    assert (verdict.family, verdict.kernel, verdict.outcome) == ("git", "sdpa", "not built")
    assert "scaled_dot_product_attention" in verdict.remarks

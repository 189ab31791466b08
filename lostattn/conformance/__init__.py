"""Conformance: a tiny random model of every image-text-to-text family of transformers, put to the self-test."""

from __future__ import annotations

from lostattn.conformance.judge import Verdict, judge
from lostattn.conformance.models import build, families
from lostattn.conformance.scan import scan, write_table
from lostattn.conformance.table import in_page, markdown, summary

__all__ = ["Verdict", "build", "families", "in_page", "judge", "markdown", "scan", "summary", "write_table"]

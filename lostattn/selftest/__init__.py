"""The proof that hook points do what they say, here and on a server."""

from __future__ import annotations

from lostattn.selftest.local_proof import selftest
from lostattn.selftest.report import Check, Report

__all__ = ["Check", "Report", "selftest"]

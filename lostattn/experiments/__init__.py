"""The paper's two experiments, and attention flow, on any model and any set of questions.

>>> updates = la.experiments.decouple(model, data)                        # doctest: +SKIP
>>> answers = la.experiments.probe(model, data, {"gaussian": edit})       # doctest: +SKIP
>>> losses = la.experiments.flow(model, data, windows=2)                   # doctest: +SKIP

All give tidy tables. The tables behind them, one row a question and condition, come as
:class:`~lostattn.experiments.results.Results` from ``decouple_questions``, ``probe_questions`` and
``flow_questions``.
"""

from __future__ import annotations

from lostattn.experiments.attention_flow import EDGES, flow, flow_questions
from lostattn.experiments.decoupling import decouple, decouple_questions
from lostattn.experiments.probing import attention_sources, probe, probe_questions
from lostattn.experiments.rescoring import rescore, score_table
from lostattn.experiments.results import Results

__all__ = [
    "EDGES",
    "Results",
    "attention_sources",
    "decouple",
    "decouple_questions",
    "flow",
    "flow_questions",
    "probe",
    "probe_questions",
    "rescore",
    "score_table",
]

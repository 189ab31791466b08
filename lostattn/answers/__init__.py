"""Answers as tokens, and how much a model favours them: what lenses, patching and knockouts are judged by.

What stands here judges logits, and so what follows a prompt next. Answers of several tokens are judged whole by
:meth:`lostattn.LVLM.score_answers`, which lets the model say each of them.
"""

from __future__ import annotations

from lostattn.answers.choices import Choices
from lostattn.answers.metrics import COMPARING, KINDS, AnswerMetric, metric
from lostattn.answers.of_logits import answer_log_probability, answer_probability, logit_difference
from lostattn.answers.tokens import answer_tokens, whole_answer_tokens

__all__ = [
    "COMPARING",
    "KINDS",
    "AnswerMetric",
    "Choices",
    "answer_log_probability",
    "answer_probability",
    "answer_tokens",
    "logit_difference",
    "metric",
    "whole_answer_tokens",
]

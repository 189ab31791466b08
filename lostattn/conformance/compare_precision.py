"""The same in bfloat16, and under flex attention where it runs."""

from __future__ import annotations

from dataclasses import replace

import torch

from lostattn.conformance.compare_edits import identity, uniform
from lostattn.conformance.compare_patterns import patterns
from lostattn.conformance.comparison import NEAR_BFLOAT16, Absent, Comparison, Subject


def bfloat16(subject: Subject) -> list[Comparison]:
    """Patterns and edits with weights of 16 bits. The models of ``subject`` are in bfloat16 afterwards."""
    subject.bare.to(torch.bfloat16)
    subject.model.hf.to(torch.bfloat16)
    try:
        with torch.no_grad():
            subject.bare(**subject.model._inputs(subject.prompt), use_cache=False)
    except Exception as error:  # whatever the model says
        said = " ".join(str(error).split())
        raise Absent(f"the bare model does not run: {type(error).__name__}: {said[:160]}") from error
    made = uniform(subject, NEAR_BFLOAT16)
    why = "by hand it does not move them either: what it changes is less than the rounding"
    for i in range(0, len(made), 2):  # an edit, and whether it moves
        if made[i].worst == 0.0 and made[i + 1].failed:
            made[i + 1] = replace(made[i + 1], worst=None, absent=why)
    return [*patterns(subject, NEAR_BFLOAT16), *identity(subject), *made]

"""What a representation holds and what an update adds to it, as pure functions on tensors.

States are ``[*batch, pos, d_model]``, patterns ``[*batch, head, query, key]``; results are float64 with the
``*batch`` axes left. A ``mask`` (True at real tokens) takes padded rows out as if they had been cut off.

>>> import torch
>>> from lostattn import metrics
>>> x = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])

How many directions are in use:

>>> metrics.effective_rank(x)
tensor(2., dtype=torch.float64)

What an update adds. Mixing the tokens stays inside the row space; a new direction does not:

>>> mixed, grown = x.flip(0) + x / 2, x + torch.tensor([0.0, 0.0, 4.0])
>>> metrics.row_innovation(x, mixed)
tensor(0., dtype=torch.float64)
>>> metrics.row_innovation(x, grown)
tensor(0.8000, dtype=torch.float64)

RID counts that and the change of the spectrum; MixIG the rearrangement of the tokens:

>>> metrics.rid(x, grown) > metrics.rid(x, mixed)
tensor(True)
>>> metrics.mixig(x, grown) > 0
tensor(True)

All of it for the two updates of a layer, each state decomposed once (axis 0: attention, FFN):

>>> metrics.update_metrics(x, mixed, mixed)["rid"].shape
torch.Size([2])

The released code's settings, by name, and a tolerance for what counts as zero:

>>> round(float(metrics.token_mixing_entropy(x, "released")), 3)
0.037
>>> metrics.decompose(torch.diag(torch.tensor([1.0, 0.01])), tol=0.1).rank
tensor(1)

Where attention goes:

>>> pattern = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.25, 0.25]]])
>>> metrics.attention_mass(pattern, torch.tensor([False, True, True]))
tensor([[0.0000, 0.5000, 0.5000]], dtype=torch.float64)
>>> metrics.sink_positions(pattern)
tensor([[ True,  True, False]])
"""

from __future__ import annotations

from lostattn.metrics.attention import attention_entropy, attention_mass, sink_mass, sink_positions
from lostattn.metrics.innovation import column_innovation, rid, row_innovation, subspace_innovation
from lostattn.metrics.mixing import mixig, token_mixing_entropy
from lostattn.metrics.spectrum import Decomposition, decompose, effective_rank, singular_values, spectral_change
from lostattn.metrics.updates import stream_metrics, update_metrics

__all__ = [
    "Decomposition",
    "attention_entropy",
    "attention_mass",
    "column_innovation",
    "decompose",
    "effective_rank",
    "mixig",
    "rid",
    "row_innovation",
    "singular_values",
    "sink_mass",
    "sink_positions",
    "spectral_change",
    "stream_metrics",
    "subspace_innovation",
    "token_mixing_entropy",
    "update_metrics",
]

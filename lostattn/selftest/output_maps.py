"""Whether the layers whose weights are taken for what heads, neurons and the last state write do just that.

Nothing is run for it: what each of them was given and gave was seen in the pass of the bare model. A layer of which it
does not hold (one that clips its values, say) loses the points that are made with its weights, by its reason; edits are
made without them.
"""

from __future__ import annotations

from lostattn.points.hooked_model import HookedModel
from lostattn.selftest.bare_pass import Seen
from lostattn.selftest.report import Check
from lostattn.weights.parts_of_sum import off_by

_PARTS = 8  # of what is no sum of heads


def watched_maps(model: HookedModel) -> set[str]:
    """The modules whose inputs and outputs are to be seen in the pass, beside the unembedding."""
    return {path for path in _parts(model) if path != model.architecture.unembed}


def check_maps(model: HookedModel, seen: Seen) -> tuple[list[Check], dict[str, str]]:
    """What was measured of the layers that are linear maps, and the reason for each that is not, by its path.

    A layer that this pass did not come to stays as it was found before.
    """
    checks, reasons = [], dict(model.sites.no_maps)
    for path, (name, parts) in _parts(model).items():
        given, gave = (seen.tensors.get((path, port)) for port in ("input", "output"))
        if given is None or gave is None or len(seen.times[path, "output"]) != 1:
            continue
        reasons.pop(path, None)
        off, reason = off_by(model.hf, path, given, gave, parts)
        if reason:
            reasons[path] = reason
        else:
            checks.append(Check(name, off, True))
    return checks, reasons


def _parts(model: HookedModel) -> dict[str, tuple[str, int]]:
    """What to call the check of each layer, and into how many parts its input is cut."""
    architecture = model.architecture
    found = {}
    for stack in (architecture.stack, *([architecture.vision.stack] if architecture.vision else [])):
        for i, block in enumerate(stack.blocks):
            for which, attn in block.attentions.items():
                if attn.o is not None:
                    found[attn.o] = (f"{stack.prefix}.{i}: Σ heads = output map of {which}'s z", attn.n_heads)
            if stack is architecture.stack and block.mlp_post is not None and block.mlp_out is not None:
                found[block.mlp_out] = (f"{stack.prefix}.{i}: Σ neurons = output map of the FFN", _PARTS)
    found[architecture.unembed] = ("unembedding of the last state = logits", _PARTS)
    return found

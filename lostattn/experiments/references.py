"""The references of ``decouple``, each in one pass for all layers, instead of a pass a layer.

A reference acts in one layer, on the stream that the untouched model brings there, and is judged by what attention then
adds. So one pass can hold it in every layer: the stream is put back to the untouched one before each, the FFNs between
them are left out, and the pass ends after the last attention. What is computed is what a pass a layer would compute, in
the same shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lostattn.errors import InputError
from lostattn.kernels.program import Program, SkipEvent
from lostattn.kernels.proof import put_back
from lostattn.model.lvlm import LVLM
from lostattn.plan.acting import SINGLE
from lostattn.plan.compiling import compile_edits
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Edit, Reduction
from lostattn.plan.touch_record import Touched
from lostattn.points.sites import served_path
from lostattn.prompt.batch import Prompt
from lostattn.run.calls import Reading
from lostattn.run.local import run_here, running
from lostattn.run.make_calls import counted, pass_call

Numbers = dict[str, Any]
Place = tuple[str, int]  # a reference and a layer
References = Mapping[str, Mapping[int, tuple[Intervention, Reduction]]]  # by name and layer: what acts, and its judge


def layers_stand_alone(model: LVLM) -> bool:
    """Whether what a layer's attention gives follows from the stream that the layer is given, and nothing else.

    Layers that read the keys of earlier ones (Gemma 3n) would read those of another reference.
    """
    for module in model.hf.modules():
        config = getattr(module, "config", None)
        if getattr(module, "is_kv_shared_layer", False) or getattr(config, "num_kv_shared_layers", 0):
            return False
    return all(_editable(model, name) for name in _entries(model))


def own_and_references(
    model: LVLM,
    prompt: Prompt,
    own: Sequence[Reduction],
    remembered: Sequence[str],
    references: References,
) -> Iterator[tuple[Place | None, Numbers, Touched | None]]:
    """The numbers of the untouched pass, then those of every reference in every layer, and where its edits acted.

    Args:
        model: the model, whose layers stand alone (:func:`layers_stand_alone`).
        prompt: a batch.
        own: what to reduce in the untouched pass.
        remembered: points of the untouched pass that references are judged against.
        references: by name.
    """
    entries = _entries(model) if references else []
    kept = list(dict.fromkeys((*entries, *remembered)))
    call = pass_call(model, prompt, Reading("numbers"), kept, [], own)
    with running(model), _plain_outputs(model) as plain:
        memory = run_here(model.nn, call.plain())["kept"]
    yield None, {reduction.name: memory.pop(reduction.name) for reduction in own}, None
    resets = [Edit(name, put_back, {"known": memory[name]}) for name in entries]
    for name, layers in references.items():
        yield from _one_reference(model, prompt, name, layers, resets, memory, plain)


def _one_reference(
    model: LVLM,
    prompt: Prompt,
    name: str,
    layers: Mapping[int, tuple[Intervention, Reduction]],
    resets: list[Edit],
    memory: dict[str, Any],
    plain: set[str],
) -> Iterator[tuple[Place, Numbers, Touched]]:
    """The pass of one reference, in all of its layers."""
    acting: list[Edit] = []
    ends: list[int] = []
    judges = []
    for i, (intervention, judge) in layers.items():
        acting += compile_edits(model, intervention, prompt, steps=SINGLE)
        ends.append(len(acting))
        judges.append(replace(judge, name=f"{name}.{i}", params={**judge.params, "frees": judge.needs}))
    acting = [replace(edit, number=number) for number, edit in enumerate(acting)]
    call = pass_call(model, prompt, Reading("numbers"), (), [*resets, *acting], judges)
    call = replace(call, program=_without_ffns(model, call.program, plain), stops=True)
    with running(model):
        raw = run_here(model.nn, call.plain(), memory)
    touched = Touched.of(counted(acting), raw.get("touched"))
    for i, judge, *part in zip(layers, judges, [0, *ends], ends, strict=False):
        yield (name, i), {"update": raw["kept"][judge.name]}, touched.part(*part)


def _entries(model: LVLM) -> list[str]:
    return [f"blocks.{i}.hook_resid_pre" for i in range(model.cfg.n_layers)]


def _editable(model: LVLM, name: str) -> bool:
    try:
        model.sites.editable(name)
    except InputError:
        return False
    return True


@contextmanager
def _plain_outputs(model: LVLM) -> Iterator[set[str]]:
    """Of a pass that runs meanwhile: the FFNs that give a tensor by itself, without anything beside it."""
    found: set[str] = set()

    def note(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, given, made: found.add(path) if isinstance(made, Tensor) else None

    paths = [b.mlp for b in model.architecture.stack.blocks if b.mlp is not None and b.mid is not None]
    handles = [model.hf.get_submodule(path).register_forward_hook(note(path)) for path in paths]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _without_ffns(model: LVLM, program: Program, plain: set[str]) -> Program:
    """A program that leaves out the FFN of each layer before the stream is put back at the next one's entry."""
    blocks = model.architecture.stack.blocks
    before = {served_path(after.path): block.mlp for block, after in zip(blocks, blocks[1:], strict=False)}
    complete: Program = []
    for event in program:
        mlp = before.get(event["path"]) if event["kind"] == "tensor" and event["port"] == "input" else None
        if mlp in plain:
            skipped: SkipEvent = {"kind": "skip", "path": served_path(str(mlp)), "once": True}
            complete.append(skipped)
        complete.append(event)
    return complete

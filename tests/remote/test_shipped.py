"""What would be sent, opened in a process that has only what a server has: it must read, hold no trap, and run."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
import linecache
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import bounds
import pytest
import torch
from nnsight.tracing.backend import Backend
from remote_table import EDITS, GRADIENTS, MANY, STUDIES, TABLE, flat
from tiny import FAMILIES, INPUTS, MAKERS, rounding, wrapped

import lostattn as la
import lostattn.kernels.edits
import lostattn.kernels.metrics
from lostattn.errors import InputError
from lostattn.reductions import update_metrics
from lostattn.remote.opening import open_trace
from lostattn.remote.session import Session
from lostattn.remote.shipping import Pickler, as_written, is_yours, packed_request, shipped_by_value
from lostattn.run.make_calls import CALLS, cache_call, generate_call, hooks_call, measure_call

SERVER = Path(__file__).parent / "server_process.py"


class Kept(Backend):
    """Packs a trace and runs nothing."""

    blob = b""

    def __call__(self, tracer: Any) -> None:
        self.blob = packed_request(tracer, compress=False)


def doubled(value: Any, hook: Any) -> Any:
    return 2 * value


def calls(model: la.LVLM, prompt: la.Prompt) -> dict[str, Any]:
    edits = [edit for name, edit in EDITS.items() if name not in ("complexity", "gaussian", "uniform")]
    many = sum([EDITS["gaussian"], *edits])
    return {
        "cache": cache_call(model, prompt, interventions=many),
        "hooks": hooks_call(model, prompt, [("blocks.0.hook_mlp_out", doubled)]),
        "numbers": measure_call(model, prompt, update_metrics(model, prompt, [0, 1], "released")),
        "generation": generate_call(model, prompt, EDITS["gaussian"], max_new_tokens=3),
    }


def run_as_a_server(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", str(SERVER), str(folder), *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_calls_run_where_nothing_of_this_package_is(family, tmp_path):
    model = wrapped(family)
    prompt = model.prompt(inputs=INPUTS[family]())
    MAKERS[family]().save_pretrained(tmp_path)
    every = calls(model, prompt)
    blobs: dict[str, bytes] = {}
    for name, call in every.items():
        backend = Kept()
        open_trace(model, [call], backend)
        blobs[name] = backend.blob
    backend = Kept()
    open_trace(model, list(every.values()), backend)
    blobs["session"] = backend.blob
    torch.save(blobs, tmp_path / "blobs.pt")

    run_as_a_server(tmp_path, "run")

    sent = torch.load(tmp_path / "sent.pt", weights_only=False)
    with Session(model, False) as here:
        for call in every.values():
            here.add(call)
    for name, expected in zip(every, here._here, strict=True):
        compared(expected, sent[name], rounding(family))
    for expected, found in zip(here._here, sent["session"], strict=True):
        compared(expected, found, rounding(family))


def compared(here: Any, there: Any, share: float) -> None:
    mine, theirs = flat(without_geometry(here)), flat(without_geometry(there))
    assert list(mine) == list(theirs) and mine
    for name, value in mine.items():
        bounds.close(theirs[name], value, share, of=name)


def without_geometry(raw: Any) -> Any:
    kept = {name: value for name, value in raw.get("kept", {}).items() if not name.endswith(".geometry")}
    return {**raw, "kept": kept}


@pytest.mark.slow
def test_no_function_that_may_be_sent_holds_a_trap(tmp_path):
    """Every function of the kernels, whether a call of the table reaches it or not."""
    modules = [lostattn.kernels.metrics]
    for found in pkgutil.iter_modules(lostattn.kernels.__path__, "lostattn.kernels."):
        modules.append(importlib.import_module(found.name))
    functions = [
        f for m in modules for f in vars(m).values() if isinstance(f, FunctionType) and f.__module__ == m.__name__
    ]
    assert len(functions) > 60
    buffer = io.BytesIO()
    with shipped_by_value():
        Pickler(buffer, protocol=4).dump(functions)
    torch.save({"functions": buffer.getvalue()}, tmp_path / "blobs.pt")
    assert f"{len(functions)} functions" in run_as_a_server(tmp_path, "read")


@pytest.mark.parametrize(
    ("source", "trap"),
    [
        ("def f(x):\n    import lostattn\n    return x\n", "imports"),
        ("def f(x):\n    y: int = x\n    return y\n", "annotates a local"),
        ("@cached\ndef f(x):\n    return x\n", "decorated"),
        ("class A:\n    def f(self):\n        return super().f()\n", "super()"),
    ],
)
def test_the_inspection_finds_each_trap(source, trap):
    sys.path.insert(0, str(SERVER.parent))
    try:
        server = importlib.import_module("server_process")
    finally:
        sys.path.remove(str(SERVER.parent))
    assert any(trap in told for told in server.traps("f", source))


def test_a_function_is_sent_as_it_was_written():
    from lostattn.kernels.edits import scale_cells

    assert scale_cells is not as_written(scale_cells), "the tests run under the import hook"
    assert inspect.unwrap(scale_cells) is as_written(scale_cells)
    assert as_written(doubled) is doubled


def test_a_function_whose_file_has_changed_is_not_sent(tmp_path, monkeypatch):
    file = tmp_path / "edited_later.py"
    file.write_text("def tripled(value, hook):\n    return 3 * value\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("edited_later")
    pickler = Pickler(io.BytesIO(), protocol=4)
    pickler.dump(module.tripled)
    file.write_text("def other(value):\n    return value\n\n\n" + file.read_text())
    linecache.checkcache()
    with pytest.raises(InputError, match="tripled cannot be found .* Start a new process"):
        Pickler(io.BytesIO(), protocol=4).dump(module.tripled)


@pytest.mark.slow
def test_bytecode_is_refused_and_source_is_not(tmp_path):
    @dataclasses.dataclass
    class Settings:
        factor: float = 2.0

    class Plain:
        def __init__(self, factor: float) -> None:
            self.factor = factor

    made: dict[str, Any] = {"__name__": "nowhere"}
    exec("def made(value, hook):\n    return value", made)
    for without_source in (Settings(), made["made"]):
        with pytest.raises(InputError, match="has no source that could be sent .* another Python"):
            Pickler(io.BytesIO(), protocol=4).dump(without_source)
    settings, plain = Settings(), Plain(3.0)
    with pytest.raises(InputError, match=r"Settings.__\w+__ has no source"):
        Pickler(io.BytesIO(), protocol=4).dump(lambda value, hook: value * settings.factor)
    Pickler(buffer := io.BytesIO(), protocol=4).dump([lambda value, hook: value * plain.factor])
    torch.save({"functions": buffer.getvalue()}, tmp_path / "blobs.pt")
    assert "1 functions" in run_as_a_server(tmp_path, "read")


def test_what_is_yours_is_what_lies_in_no_installation():
    assert is_yours(doubled) and is_yours(lostattn.kernels.edits.scale_cells)
    assert not is_yours(torch.nn.functional.relu) and not is_yours(inspect.getsource)


def test_the_package_is_sent_by_value_for_the_moment_of_sending_alone():
    from cloudpickle import list_registry_pickle_by_value

    with shipped_by_value():
        assert "lostattn" in list_registry_pickle_by_value()
    assert "lostattn" not in list_registry_pickle_by_value()


# Made of another that the tables hold, with the same arguments, or tested by itself beside the tables.
ALIKE = {"decouple", "decouple_questions", "probe", "probe_questions", "flow_questions"}
ALIKE |= {"input_figure", "run_with_gradients", "selftest"}


def test_the_tables_cover_every_call():
    public = {name: value for name, value in vars(la.LVLM).items() if not name.startswith("_")}
    for module in (getattr(la, name) for name in la.__all__):
        exported = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
        if inspect.ismodule(module) and module is not la.remote:
            found = {name: vars(module).get(name) for name in exported}
            public |= {
                name: value for name, value in found.items() if inspect.isfunction(value) and is_its_own(value, module)
            }
    takes_remote = {name for name, call in public.items() if inspect.isfunction(call) and takes(call, "remote")}
    assert set(CALLS) | ALIKE <= takes_remote
    asked = " ".join(inspect.getsource(entry) for entry in (TABLE | STUDIES | GRADIENTS).values())
    missing = {name for name in takes_remote - ALIKE if f"{name}(" not in asked}
    assert not missing
    assert isinstance(MANY, la.Composition)


def is_its_own(function: Any, module: Any) -> bool:
    """Whether a module defines a function, or hands it on under its ``__all__``; what it imports is not its own."""
    return inspect.isfunction(function) and (
        hasattr(module, "__all__") or inspect.unwrap(function).__module__ == module.__name__
    )


def takes(call: Any, argument: str) -> bool:
    return argument in inspect.signature(inspect.unwrap(call)).parameters

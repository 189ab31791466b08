"""What a model's modules were when it was wrapped, so that a change is noticed in microseconds at the next call.

Hook points are proved on the modules that a model has when it is loaded. Where a module is replaced afterwards,
adapted, compiled, given another ``forward`` or a hook that changes what it gives, a pass would be read and edited in
the wrong place, or not at all. Looking costs a comparison of lists (tenths of a microsecond a module).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks

from lostattn.errors import ChangedModel

# Libraries whose hooks are part of how a model runs: they were there, in effect, when it was proved.
_RUNTIME = ("transformers", "accelerate", "nnsight", "torch", "lostattn", "peft", "bitsandbytes", "optimum")
_AGAIN = "Load it again as it is now, la.load(model.hf), which proves it; or put back what was there."


class ModuleRecord:
    """The modules of a model as they were: which holds which, what each one's ``forward`` is, and its hooks."""

    def __init__(self, root: nn.Module) -> None:
        named = list(root.named_modules())
        self._paths, self._modules = [path for path, _ in named], [module for _, module in named]
        self._inside = [module._modules for module in self._modules]
        self._own = [module.__dict__ for module in self._modules]
        # torch keeps hooks of every module at once in a place of their own.
        self._hooks = [_global_forward_hooks, *(module._forward_hooks for module in self._modules)]
        self._random = [module for module in self._modules if _drops(module)]
        self._children = self._held()
        self._named_children = [dict(inside) for inside in self._inside]
        self._kinds = [type(module) for module in self._modules]
        self._classes = list(dict.fromkeys(self._kinds))
        self._methods = self._class_forwards()
        self._forwards = self._values("forward")
        self._compiled = self._values("_compiled_call_impl")
        self._known = self._hook_ids()
        self._proved = frozenset(self._known)  # hooks that were there when the model was proved, as a part of it

    def check(self, name: str) -> None:
        """Refuse a model whose modules are others than those that were proved.

        Raises:
            ChangedModel: with what changed, and what to do.
        """
        if self._held() != self._children:
            raise ChangedModel(f"{name!r} has other modules than when it was proved: {self._what_changed()}. {_AGAIN}")
        if self._values("forward") != self._forwards:
            path = self._first("forward", self._forwards)
            raise ChangedModel(f"the forward of {path!r} in {name!r} is another one than when it was proved. {_AGAIN}")
        if list(map(type, self._modules)) != self._kinds or self._class_forwards() != self._methods:
            raise ChangedModel(f"{self._what_class_changed()} in {name!r} than when it was proved. {_AGAIN}")
        if self._values("_compiled_call_impl") != self._compiled:
            path = self._first("_compiled_call_impl", self._compiled)
            raise ChangedModel(
                f"{path or 'the model'!r} in {name!r} was compiled after it was proved, and what is compiled runs past "
                "every hook point. Load the model without compiling it."
            )
        dropping = next((module for module in self._random if module.training), None)
        if dropping is not None:
            path = self._paths[self._modules.index(dropping)]
            raise ChangedModel(
                f"{name!r} is in training mode, and {path!r} drops values at random there, so two passes disagree and "
                "patterns are not those that were used. Call model.hf.eval() first."
            )

    @contextmanager
    def reading_hooks_alone(self, name: str) -> Iterator[None]:
        """While a pass runs: hooks of the caller's own may look, and one that changes a module's output is named.

        nnsight reads what a module gives before torch runs the module's hooks, so a cache would show what the model did
        not go on with. What a hook that runs *before* a module changes is seen rightly.

        Raises:
            ChangedModel: a hook replaced an output, or wrote into it.
        """
        if self._hook_ids() == self._known:
            yield
            return
        foreign = [
            (hooks, handle, hook, path)
            for hooks, path in zip(self._hooks, ["every module", *self._paths], strict=True)
            for handle, hook in hooks.items()
            if handle not in self._proved and not _of_runtime(hook)
        ]
        for hooks, handle, hook, path in foreign:
            hooks[handle] = _only_looking(hook, path, name)
        try:
            yield
        finally:
            for hooks, handle, hook, _ in foreign:
                if handle in hooks:
                    hooks[handle] = hook
            if not foreign:
                self._known = self._hook_ids()  # transformers' own, put there by the first pass

    def _held(self) -> list[Any]:
        return list(chain.from_iterable(map(dict.values, self._inside)))

    def _values(self, name: str) -> list[Any]:
        return [own.get(name) for own in self._own]

    def _hook_ids(self) -> list[int]:
        return list(chain.from_iterable(self._hooks))

    def _first(self, name: str, known: list[Any]) -> str:
        return next(p for p, now, then in zip(self._paths, self._values(name), known, strict=True) if now != then)

    def _class_forwards(self) -> list[Any]:
        return [kind.forward for kind in self._classes]

    def _what_changed(self) -> str:
        for path, then, now in zip(self._paths, self._named_children, self._inside, strict=True):
            for name in dict.fromkeys([*then, *now]):
                was, is_now = then.get(name), now.get(name)
                if was is not is_now:
                    return f"{f'{path}.{name}'.lstrip('.')!r} is {_kind(is_now)} and was {_kind(was)}"
        return "their order is another"

    def _what_class_changed(self) -> str:
        for path, module, kind in zip(self._paths, self._modules, self._kinds, strict=True):
            if type(module) is not kind:
                return f"{path!r} is {type(module).__name__} and no longer {kind.__name__}"
        kind = next(k for k, then in zip(self._classes, self._methods, strict=True) if k.forward is not then)
        return f"the forward of the class {kind.__name__} is another one"


def _kind(module: nn.Module | None) -> str:
    return "nothing" if module is None else type(module).__name__


def _drops(module: nn.Module) -> bool:
    """Whether a module drops values at random in training mode."""
    rate = getattr(module, "p", 0.0) if isinstance(module, nn.modules.dropout._DropoutNd) else 0.0
    inside = [getattr(module, name, 0.0) for name in ("attention_dropout", "dropout_prob", "dropout")]
    return any(isinstance(value, float) and value > 0.0 for value in (rate, *inside))


def _of_runtime(hook: Callable[..., Any]) -> bool:
    inner = getattr(hook, "func", hook)  # of a functools.partial
    module = getattr(inner, "__module__", None) or type(inner).__module__
    return module.partition(".")[0] in _RUNTIME


def _only_looking(hook: Callable[..., Any], path: str, name: str) -> Callable[..., Any]:
    """A hook that may look at a module's output and not change it."""

    def looking(*given: Any, **keywords: Any) -> None:
        tensors = list(_tensors(given[-1]))
        before = list(map(_mark, tensors))
        changed = hook(*given, **keywords)
        if changed is not None or not all(map(_unwritten, tensors, before)):
            raise ChangedModel(
                f"a torch hook of your own ({getattr(hook, '__qualname__', hook)}) changes what {path!r} of {name!r} "
                "gives: the model goes on with that, and a cache or an edit would not see it. Take it off "
                "(handle.remove()) and run it as model.run_with_hooks(prompt, fwd_hooks=[(name, function)])."
            )

    return looking


def _mark(tensor: Tensor) -> int | Tensor:
    """What tells later whether a tensor was written into: its version, or a copy where inference mode counts none."""
    return tensor.clone() if tensor.is_inference() else tensor._version


def _unwritten(tensor: Tensor, mark: int | Tensor) -> bool:
    if isinstance(mark, int):
        return tensor._version == mark
    return torch.equal(tensor.nan_to_num(), mark.nan_to_num()) and torch.equal(tensor.isnan(), mark.isnan())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)

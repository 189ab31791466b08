"""LVLM: a vision-language model with every hook point in reach."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import nnsight
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lostattn.architecture import resolve
from lostattn.cache import ActivationCache
from lostattn.calls import Reading, Remote, carry_out, run_here
from lostattn.compiling import check_seen
from lostattn.config import Config, config_of
from lostattn.errors import InputError, UnsupportedModel
from lostattn.generation import Generation
from lostattn.hooks import FwdHook
from lostattn.interventions.base import Intervention
from lostattn.interventions.setting import Setting
from lostattn.model_kinds import is_text_only
from lostattn.plan import Edit, Reduction
from lostattn.point import Point
from lostattn.presence import check_reached
from lostattn.prompt import Prompt, build_prompt
from lostattn.prompt_identity import check_maker
from lostattn.sites import NamesFilter, Sites, served
from lostattn.without_processor import NoProcessor
from lostattn.written import cache_call, generate_call, hooks_call, measure_call, pass_call

if TYPE_CHECKING:
    import pandas
    from transformer_lens.model_bridge import TransformerBridge

    from lostattn.selftest import Report
    from lostattn.streams import Metrics


class LVLM:
    """A Hugging Face vision-language model, wrapped for looking into; its weights and modules stay untouched.

    Make one with :func:`lostattn.load`. ``cfg`` holds the sizes under TransformerLens' names, ``hf`` the Hugging Face
    model, ``nn`` the nnsight model around it, ``processor`` the processor, ``hook_names`` every hook point.
    """

    def __init__(self, module: Any, processor: Any, name: str) -> None:
        self.hf = module
        self.processor = processor
        self.architecture = resolve(module)
        self.sites = Sites(self.architecture)
        with warnings.catch_warnings():
            # nnsight serves a submodule called "output" under another name; nothing of ours goes by it.
            warnings.filterwarnings("ignore", message=".*has a submodule named.*")
            self.nn = nnsight.TransformersModel(
                module,
                task="text-generation" if is_text_only(module.config) else "image-text-to-text",
                **({"device": "meta"} if self.is_described_only else {}),
                **_preprocessors(processor),
            )
        self.operations = _operations(self)
        self.name = name

    @property
    def cfg(self) -> Config:
        """The model's sizes, dtype, device and kernel as they are now."""
        return config_of(self.hf, self.architecture, self.name)

    @property
    def is_described_only(self) -> bool:
        """Whether the model was loaded with ``remote=True``: its structure without its weights."""
        return next(self.hf.parameters()).is_meta

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Every hook point of this model, in forward order."""
        return self.sites.names

    def __repr__(self) -> str:
        c = self.cfg
        return (
            f"LVLM {self.name!r}: {type(self.hf).__name__}, {c.n_layers} layers of {c.n_heads} heads "
            f"({c.n_key_value_heads} key/value), d_model {c.d_model}, {c.n_vision_layers} vision layers; "
            f"{c.attn_implementation}, {str(c.dtype).removeprefix('torch.')} on {c.device}; "
            f"{len(self.hook_names)} hook points"
        )

    def prompt(self, question: Any = None, images: Any = None, **keywords: Any) -> Prompt:
        """A prompt of this model: from a question, a text with ``images=[…]``, lists of them, or ``inputs=``.

        See :func:`lostattn.prompt.build_prompt` for everything that it takes and refuses.
        """
        if self.processor is None and keywords.get("inputs") is None:
            raise InputError(
                "this model was loaded without a processor, so a prompt can only be made of inputs that are ready: "
                "model.prompt(inputs=…). Or load it with processor=."
            )
        processor = self.processor or NoProcessor()
        return build_prompt(processor, self.hf.config, question, images, module=self.hf, **keywords)

    def run_with_cache(
        self,
        prompt: Prompt | Any,
        names_filter: NamesFilter = None,
        interventions: Intervention | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        remote: Remote = False,
        backward: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_vocab"], ActivationCache]:
        """One forward pass, with what it computed on the way, and the gradients of that where ``backward=`` is given.

        Args:
            prompt: a prompt, or what :meth:`prompt` makes one of.
            names_filter: which points to keep: a name, names, or ``name -> bool``. ``None`` keeps all; patterns are
                then made when they are looked at.
            interventions: what to change on the way. The cache shows the values after it.
            device, dtype: where and how to keep the cache (default: as the model computed it).
            remote: ``True`` runs it on NDIF, ``"local"`` rehearses that here; see :mod:`lostattn.remote`.
            backward: a metric, ``logits [item, pos, d_vocab] -> [item]`` or one number, such as
                ``la.answers.metric(model, question)``. The cache then also holds the metric's gradient at every kept
                point that can be edited: ``cache.grad("z", 3)``, or ``cache["blocks.3.attn.hook_z_grad"]``. Those of
                patterns and scores are there where ``names_filter`` names them. See :mod:`lostattn.gradients`.

        Returns:
            The logits and the cache.

        Raises:
            InputError: before anything runs, where a name, a layer, a head or a position does not exist here; a metric
                that has no gradient.
        """
        if backward is not None:
            from lostattn.gradients import run_with_gradients

            logits, cache = run_with_gradients(self, prompt, backward, names_filter, interventions, remote)
            return logits, cache if device is None and dtype is None else cache.to(device, dtype)
        return carry_out(self, cache_call(self, prompt, names_filter, interventions, device, dtype), remote)

    def run_with_hooks(
        self,
        prompt: Prompt | Any,
        fwd_hooks: Sequence[FwdHook | Any] = (),
        interventions: Intervention | None = None,
        remote: Remote = False,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """One forward pass under hook functions, in TransformerLens' manner.

        Args:
            prompt: a prompt, or what :meth:`prompt` makes one of.
            fwd_hooks: pairs ``(name or filter, function)``. ``function(value, hook)`` returns the new value, or
                ``None`` after changing ``value`` in place; ``hook.name`` says which point it is.
            interventions: run before the hooks at every point that they share.
            remote: as in :meth:`run_with_cache`. A hook that changes something of yours does so there, not here.

        Raises:
            InputError: a point that cannot be edited, or a name that does not exist (with the nearest names).
        """
        return carry_out(self, hooks_call(self, prompt, fwd_hooks, interventions), remote)

    def forward(self, prompt: Prompt | Any, remote: Remote = False) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits of the untouched model."""
        return self.run_with_hooks(prompt, remote=remote)

    __call__ = forward

    def generate(
        self,
        prompt: Prompt | Any,
        interventions: Intervention | None = None,
        max_new_tokens: int = 20,
        remote: Remote = False,
        names_filter: NamesFilter = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **keywords: Any,
    ) -> Generation:
        """Generate under interventions, which act at the prefill and at every decoding step (see their ``steps``).

        Args:
            prompt: a prompt, or what :meth:`prompt` makes one of; a batch generates side by side.
            interventions: what to change on the way.
            max_new_tokens: how many tokens to add at the most.
            remote: as in :meth:`run_with_cache`.
            names_filter: which points to keep at the prompt and at every step, as in :meth:`run_with_cache`; but
                ``None`` keeps nothing here.
            device, dtype: where and how to keep them.
            keywords: passed on to the Hugging Face ``generate`` (``do_sample=``, ``num_beams=1``, …).
                Greedy unless it says otherwise.

        Returns:
            A :class:`Generation` with ``.text`` (one a prompt), ``.tokens`` and ``.sequences``; with a
            ``names_filter`` also ``.cache``, ``.steps`` and ``.image_attention()``.
        """
        call = generate_call(self, prompt, interventions, max_new_tokens, names_filter, device, dtype, **keywords)
        return carry_out(self, call, remote)

    @overload
    def measure(
        self,
        data: Prompt | Any,
        metrics: Sequence[Reduction],
        interventions: Intervention | None = None,
        remote: Remote = False,
    ) -> dict[str, Any]: ...
    @overload
    def measure(
        self,
        data: Any,
        metrics: Metrics,
        interventions: Intervention | None = None,
        remote: Remote = False,
        batch_size: int = 32,
        progress: bool = False,
    ) -> pandas.DataFrame: ...
    def measure(
        self,
        data: Any,
        metrics: Any,
        interventions: Intervention | None = None,
        remote: Remote = False,
        batch_size: int = 32,
        progress: bool = False,
    ) -> Any:
        """Numbers instead of activations: over a data set batch by batch, or in one pass of one prompt.

        Over a data set, what a batch made is let go before the next one is read, so memory does not grow with the
        number of questions (the table has a row of numbers for each).

        ::

            model.measure(data, ["logit_difference", "correct"], interventions=edit, batch_size=16)
            model.measure(data, {"p": "probability", "rank": la.reductions.at("resid_post", la.metrics.effective_rank)})

        Args:
            data: questions, texts or a prompt of several items; any iterable, a generator too. Or one prompt.
            metrics: over a data set: names, or ``{column: metric}``. A name is one of :data:`lostattn.answers.KINDS`
                (they judge the answers of the questions) or ``"updates"``; a metric is a name, a function
                ``logits [item, pos, d_vocab] -> [item]`` (or of the logits and the batch's questions), or something
                reduced inside the pass: :func:`lostattn.reductions.updates`, :func:`lostattn.reductions.at`.
                For one prompt: reductions, such as :func:`lostattn.reductions.update_metrics`.
            interventions: what to change on the way.
            remote: as in :meth:`run_with_cache`; each batch is a job, and the activations stay where the model is.
            batch_size: questions a pass.
            progress: show a bar.

        Returns:
            A table with a row an item, in their order: ``id`` (``kind``, ``scene``) and a column a metric. For one
            prompt and reductions: what each reduction made, by its name.

        Raises:
            InputError: no data, an unknown metric, or answers to be judged of data that have none.
        """
        single = isinstance(metrics, Sequence) and not isinstance(metrics, str) and metrics
        if single and all(isinstance(one, Reduction) for one in metrics):
            return carry_out(self, measure_call(self, data, metrics, interventions), remote)
        from lostattn.streams import measure_data

        return measure_data(self, data, metrics, interventions, batch_size, progress, remote)

    def trace(self, prompt: Prompt | Any, **keywords: Any) -> AbstractContextManager[Any]:
        """The real nnsight context, for what the toolkit does not cover.

        Modules are at ``model.nn``, hook points at ``model.point(name)``::

            with model.trace(prompt):
                resid = model.point("resid_mid", 3).value.save()
                model.point("mlp_out", 4).value = 0 * resid
                logits = model.nn.output.logits.save()
        """
        return self.nn.trace(self._inputs(self._prompted(prompt)), **keywords)

    def point(self, name: str, layer: int | None = None) -> Point:
        """A hook point for use inside :meth:`trace`: ``.value`` reads it, and assigning to it writes it."""
        return Point.of(self, name, layer)

    def to_transformer_bridge(self) -> TransformerBridge:
        """A TransformerLens bridge over the same weights; this model stays as it is. See :mod:`lostattn.bridge`.

        Raises:
            UnsupportedModel: TransformerLens has no adapter for this architecture.
        """
        from lostattn.bridge import to_transformer_bridge

        return to_transformer_bridge(self)

    def selftest(self, prompt: Prompt | Any | None = None, remote: Remote = False) -> Report:
        """Prove on this model that every hook point is read and written as it says; see :mod:`lostattn.selftest`.

        With ``remote=True``, what can be proved without the weights here, as one job; see :mod:`lostattn.remote.proof`.

        Raises:
            UnsupportedModel: a point failed; the message names it.
        """
        if remote is not False:
            from lostattn.remote.proof import prove

            return prove(self, None if prompt is None else self._prompted(prompt), remote)
        from lostattn.selftest import selftest

        return selftest(self, None if prompt is None else self._prompted(prompt))

    def _prompted(self, prompt: Any) -> Prompt:
        if not isinstance(prompt, Prompt):
            return self.prompt(prompt)
        check_maker(prompt, self.processor, self.hf.config, self.name)
        return prompt

    def _inputs(self, prompt: Prompt) -> dict[str, Any]:
        device = "cpu" if self.is_described_only else next(self.hf.parameters()).device
        dtype = self.hf.dtype
        moved = {}
        for name, value in prompt.inputs.items():
            if isinstance(value, Tensor):
                value = value.to(device, dtype if value.is_floating_point() else None)
            moved[name] = value
        return moved | self._positions(moved)

    def _positions(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Position ids that count real tokens, for a padded batch; as the Hugging Face ``generate`` makes them.

        A plain forward counts padding too. Families with positions in several dimensions (mRoPE) look at the mask
        themselves.
        """
        mask = inputs.get("attention_mask")
        known = inspect.signature(self.hf.forward).parameters
        if mask is None or bool(mask.all()) or "position_ids" in inputs or "position_ids" not in known:
            return {}
        if any(hasattr(module, "get_rope_index") for module in (self.hf, self.hf.base_model)):
            return {}
        return {"position_ids": (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)}

    def _compiled(self, interventions: Intervention | None, prompt: Prompt) -> list[Edit]:
        if interventions is None:
            return []
        if not isinstance(interventions, Intervention):
            raise InputError(
                f"interventions is {type(interventions).__name__}; expected an intervention such as "
                "la.KnockOut('last', 'image'), or several joined with +."
            )
        edits = interventions.compile(Setting(self.sites, self.hf, prompt))
        for edit in edits:
            self.sites.editable(edit.name)
        check_reached(prompt, [edit.name for edit in edits])
        check_seen(prompt, edits, self.hf, self.architecture)
        return edits

    def _run(self, prompt: Prompt, names: Sequence[str], edits: Sequence[Edit]) -> tuple[Tensor, dict[str, Any]]:
        raw = run_here(self.nn, pass_call(self, prompt, Reading("cache", tuple(names)), names, edits).plain())
        return raw["logits"], raw["kept"]


def load(
    model: str | Path | nn.Module,
    *,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    attn_implementation: str = "sdpa",
    processor: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    selftest: bool = True,
    remote: bool = False,
    **keywords: Any,
) -> LVLM:
    """Load a vision-language model, or a decoder of text alone.

    A decoder of text (Llama, Qwen2, …) works as every model here does, on prompts without pictures: there are no image
    positions and no vision points.

    Args:
        model: ``"tiny-llava"`` or ``"tiny-qwen2_5-vl"`` (bundled, trained on ``shapes``), a Hugging Face id, a folder,
            or a model that is loaded already.
        dtype: of the weights; default as they are stored.
        device_map: where to put them, as transformers takes it (``"auto"``, ``"cuda"``, …).
        attn_implementation: the kernel; every hook point works under all that transformers has. Where a part beside
            the decoder does not support it, that part runs eager attention, with a warning.
        processor: a processor to use instead of the checkpoint's own (a tokenizer for a decoder of text). With a loaded
            model and none given, it is looked up under the model's ``name_or_path``; where there is none, prompts are
            made of ready inputs only.
        revision: of a Hugging Face id.
        trust_remote_code: off unless asked for.
        selftest: prove the hook points on a small picture before handing the model out (skipped without a processor).
        remote: describe the model without its weights, for calls with ``remote=True``: names, shapes, token maps and
            plans are made here, passes run there. The self-test is run on request: ``model.selftest(remote=True)``.
        keywords: passed on to ``from_pretrained``.

    Raises:
        UnknownName: no bundled model, folder or hub model is called that.
        UnsupportedModel: the model's parts cannot be found, or one of them fails the self-test.
        InputError: a setting cannot be meant; a kernel that transformers does not run this decoder with.
    """
    from lostattn.loading import load_module

    module, found, name = load_module(
        model, processor, dtype, device_map, attn_implementation, revision, trust_remote_code, keywords, remote
    )
    wrapped = LVLM(module.eval(), found, name)
    wrapped.nn.revision = revision
    if selftest and found is not None and not wrapped.is_described_only:
        wrapped.selftest()
    return wrapped


def _preprocessors(processor: Any) -> dict[str, Any]:
    given = NoProcessor() if processor is None else processor
    # A pipeline of text sets its tokenizer's padding side: it gets a copy, so that the caller's own stays as it is.
    return {"processor": given, "tokenizer": copy.copy(given.tokenizer)}


def _operations(model: LVLM) -> dict[str, str]:
    """nnsight's name of the attention call of every attention module, read from its instrumented source."""
    architecture = model.architecture
    stacks = [architecture.stack, *([architecture.vision.stack] if architecture.vision else [])]
    found = {}
    for stack in stacks:
        for path in (attn.path for block in stack.blocks for attn in block.attentions.values()):
            names = [n for n in model.nn.get(served(path)).source.names if n.startswith("attention_interface_")]
            if not names:
                raise UnsupportedModel(f"{path}: nnsight sees no call of attention_interface in its forward.")
            found[path] = names[-1]
    return found

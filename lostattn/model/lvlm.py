"""LVLM: a vision-language model with every hook point in reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

import lostattn.interventions  # noqa: F401 (a stored intervention is read by the classes that are defined by then)
from lostattn.answers.choices import choices_of
from lostattn.arguments import checked_call
from lostattn.arguments.kinds import Count
from lostattn.cache.activation_cache import ActivationCache
from lostattn.gradients import run_with_gradients
from lostattn.model.answer_scores import AnswerScores, score_choices
from lostattn.model.bridge import to_transformer_bridge
from lostattn.model.measure import Metrics, measure_data
from lostattn.plan.hooks import FwdHook
from lostattn.plan.intervention import Intervention
from lostattn.plan.program import Reduction
from lostattn.points.hooked_model import HookedModel
from lostattn.points.sites import NamesFilter
from lostattn.points.trace_point import Point
from lostattn.prompt.batch import Prompt
from lostattn.remote.dispatch import carry_out
from lostattn.remote.tracing import guard
from lostattn.run.calls import Remote
from lostattn.run.generation import Generation
from lostattn.run.local import wait_its_turn
from lostattn.run.make_calls import cache_call, generate_call, hooks_call, measure_call
from lostattn.selftest.local_proof import selftest
from lostattn.selftest.remote_proof import prove
from lostattn.selftest.report import Report

if TYPE_CHECKING:
    import pandas
    from transformer_lens.model_bridge import TransformerBridge


@checked_call
class LVLM(HookedModel):
    """A Hugging Face vision-language model, wrapped for looking into; its weights and modules stay untouched.

    Make one with :func:`lostattn.load`. ``cfg`` holds the sizes under TransformerLens' names, ``hf`` the Hugging Face
    model, ``nn`` the nnsight model around it, ``processor`` the processor, ``hook_names`` every hook point.
    """

    def __init__(self, module: Any, processor: Any, name: str) -> None:
        super().__init__(module, processor, name)
        guard(self)

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
        max_new_tokens: Count | None = None,
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
            max_new_tokens: how many tokens to add at the most; 20 unless this or ``generation_config=`` says otherwise.
            remote: as in :meth:`run_with_cache`.
            names_filter: which points to keep at the prompt and at every step, as in :meth:`run_with_cache`; but
                ``None`` keeps nothing here.
            device, dtype: where and how to keep them.
            keywords: settings of the Hugging Face ``generate``: sampling, ``num_return_sequences=``,
                ``generation_config=``, ``stopping_criteria=``, … Greedy unless they say otherwise. Under interventions
                and ``names_filter`` those that are exact; see :mod:`lostattn.run.generation_settings`.

        Returns:
            A :class:`Generation` with ``.text`` (one a prompt), ``.tokens`` and ``.sequences``; with a
            ``names_filter`` also ``.cache``, ``.steps`` and ``.image_attention()``, with ``output_scores=True`` and
            ``output_logits=True`` also ``.scores`` and ``.logits``.

        Raises:
            InputError: a setting that changes what a pass is, wherever it was set (keyword, ``generation_config=``,
                the checkpoint), under interventions or ``names_filter``.
            UnknownName: a setting that does not exist, with the nearest names.
        """
        call = generate_call(self, prompt, interventions, max_new_tokens, names_filter, device, dtype, **keywords)
        return carry_out(self, call, remote)

    def score_answers(
        self,
        question: Any,
        choices: Any = None,
        right: Any = None,
        interventions: Intervention | None = None,
        remote: Remote = False,
    ) -> AnswerScores:
        """How likely each choice is as the whole answer, all of its tokens; see :mod:`lostattn.model.answer_scores`.

        ::

            scores = model.score_answers(data[0], interventions=edit)
            scores.best, scores.correct, scores.value("probability"), scores.table()
            model.score_answers(prompt, choices=["a circle", "a square"], right="a circle")

        Args:
            question: a question, a text, a list of either, or a prompt.
            choices: of one item a list of answers; of several, a list of them for each: texts, or ids of tokens (an
                int, or a tuple). None takes each question's own.
            right: the right one, one for all or a list of one for each; None takes each question's own answer.
            interventions: what to change on the way. They act as in :meth:`generate`, step by step.
            remote: as in :meth:`run_with_cache`, where every choice is one token.

        Raises:
            InputError: no choices; a right answer that is none of them; two choices of the same tokens; choices of
                several tokens with ``remote=``.
        """
        prompt = self._prompted(question)
        return score_choices(self, prompt, choices_of(self, question, choices, right), interventions, remote)

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
        return measure_data(self, data, metrics, interventions, batch_size, progress, remote)

    def trace(self, prompt: Prompt | Any, **keywords: Any) -> AbstractContextManager[Any]:
        """The real nnsight context, for what the toolkit does not cover.

        Modules are at ``model.nn``, hook points at ``model.point(name)``::

            with model.trace(prompt):
                resid = model.point("resid_mid", 3).value.save()
                model.point("mlp_out", 4).value = 0 * resid
                logits = model.nn.output.logits.save()

        Here it waits for a pass of another thread on this model, as every call does; a remote one does not.

        Raises:
            ChangedModel: its modules are others than those that were proved.
        """
        self.record.check(self.name)
        return wait_its_turn(self, self.nn.trace(self._inputs(self._prompted(prompt)), **keywords))

    def point(self, name: str, layer: int | None = None) -> Point:
        """A hook point for use inside :meth:`trace`: ``.value`` reads it, and assigning to it writes it."""
        return Point.of(self, name, layer)

    def to_transformer_bridge(self) -> TransformerBridge:
        """A TransformerLens bridge over the same weights; this model stays as it is. See :mod:`lostattn.model.bridge`.

        Raises:
            UnsupportedModel: TransformerLens has no adapter for this architecture.
        """
        return to_transformer_bridge(self)

    def selftest(self, prompt: Prompt | Any | None = None, remote: Remote = False) -> Report:
        """Prove on this model that every hook point is read and written as it says; see :mod:`lostattn.selftest`.

        With ``remote=True``, what can be proved without the weights here, as one job; see
        :mod:`lostattn.selftest.remote_proof`.

        Raises:
            UnsupportedModel: a point failed; the message names it.
        """
        if remote is not False:
            return prove(self, None if prompt is None else self._prompted(prompt), remote)
        return selftest(self, None if prompt is None else self._prompted(prompt))

"""Text models for the harness of language benchmarks (lm-evaluation-harness, extra ``eval``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from ..hub import Model
from ..likelihood import Bound, CutOff, Row, Scorer
from ..likelihood.rows import number_of
from ..maps import EndpointMap
from ..samplers import Argmax, at_temperature
from ..tasks.text import Text
from ..tasks.text_prompts import Template, Wish, fill_each, until
from ..tasks.text_rows import TextRows, pair

TOKENS = 64  # of an answer whose task does not say


class HarnessModel(LM):
    r"""A text model whose log-likelihoods are minus a bound on :math:`-\log p`.

    .. math:: \log p(\text{answer} \mid \text{context}) \ge -\mathrm{B1}

    The choices of one question see the same noise. An answer is said to be greedy if jumps of the map, decoded by
    arg-max from one noise of the question's own, give just it.

    Arguments:
        model: A model of texts.
        bound: The bound; B1 with points where the integrand is large, by default.
        steps: Jumps of answers that are generated; 0 says of every answer that it is not greedy, and saves the time.
        seed: Of all random numbers.
        batch: States of one network evaluation.
        draws: Points of the default bound; the noise of a difference of two choices falls with their root.
    Raises: ValueError if the model is none of texts, or has no posterior.
    Invariant: values are those of :class:`~flowmaps.likelihood.Scorer` (``tests/cli/test_evaluate_lm.py``).
    Reference: Gao et al. 2024, *The language model evaluation harness*, https://github.com/EleutherAI/lm-evaluation-harness.
    """

    def __init__(
        self,
        model: Model,
        bound: Bound | None = None,
        steps: int = 4,
        seed: int = 0,
        batch: int = 128,
        draws: int = 16,
    ):
        super().__init__()
        if not isinstance(model.task, Text) or not isinstance(model.flow_map, EndpointMap):
            kinds = f"{type(model.flow_map).__name__} of {type(model.task).__name__}"
            raise ValueError(f"{model.folder} is a {kinds}; the harness needs an EndpointMap of Text")
        if steps < 0:
            raise ValueError(f"steps is {steps}, expected a number of jumps, or 0 for none")
        self.model, self.task, self.steps, self.seed, self.batch = model, model.task, steps, seed, batch
        if bound is None:
            bound = CutOff(draws=draws, proposal=model.task.proposal(model.flow_map, model.generator(seed)))
        self.bound = bound
        self.scorer = Scorer(model.flow_map, [bound], seed, batch)
        given = bool(model.task.state()["given"])
        length = model.task.length
        self.rows = TextRows(model.task.tokeniser, length, length // 2 if given else 0, given)

    @property
    def tokenizer_name(self) -> str:
        return f"flowmaps-{self.task.tokeniser.name}"

    def nats(self, rows: Iterator[Row]) -> list[float]:
        """The bound on each row."""
        return [score.nats(self.bound.symbol) for score in self.scorer(rows)]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        pairs = [(str(context), str(answer)) for context, answer in map(_arguments, requests)]
        groups = [_group(r) for r in requests]
        nats = self.nats(self.rows.of_pair(*each, group=group) for each, group in zip(pairs, groups, strict=True))
        greedy = self.greedy(pairs, groups) if self.steps else [False] * len(pairs)
        return list(zip([-x for x in nats], greedy, strict=True))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        rows = (self.rows.of_text(str(_arguments(r)[0]), _group(r)) for r in requests)
        return [-x for x in self.nats(rows)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        wishes: list[Wish] = []
        for r in requests:
            context, options = _arguments(r)
            tokens = max(int(options.get("max_gen_toks", TOKENS)), 1)
            heat = float(options.get("temperature", 0)) if options.get("do_sample", True) else 0.0
            known = torch.from_numpy(self.task.tokeniser.spell(context).astype("int64")) if context else torch.zeros(0)
            wishes.append(
                Wish(self._template(known.long(), tokens), number_of(self.seed, _group(r)), at_temperature(heat))
            )
        texts = [
            self.task.tokeniser.decode(drawn[~wish.wanted.known].tolist())
            for wish, drawn in zip(wishes, self._drawn(wishes), strict=True)
        ]
        return [until(text, _arguments(r)[1].get("until", [])) for text, r in zip(texts, requests, strict=True)]

    def greedy(self, pairs: Sequence[tuple[str, str]], groups: Sequence[str]) -> list[bool]:
        """Whether each answer is what the map itself gives after its context."""
        wishes, answers = list[Wish](), list[list[int]]()
        for (context, answer), group in zip(pairs, groups, strict=True):
            tokens, known = pair(self.task.tokeniser, context, answer)
            whole = torch.from_numpy(tokens.astype("int64"))
            answers.append(whole[known:].tolist())
            wishes.append(
                Wish(self._template(whole[:known], len(whole) - known), number_of(self.seed, group), Argmax())
            )
        drawn = self._drawn(wishes)
        made = [row[~wish.wanted.known].tolist() for wish, row in zip(wishes, drawn, strict=True)]
        return [one == other for one, other in zip(made, answers, strict=True)]

    def _template(self, before: torch.Tensor, tokens: int) -> Template:
        """A gap of so many tokens after as many given ones as fit a window beside it, at least half of one."""
        length = self.task.length
        before = before[max(len(before) - max(length - tokens, length // 2), 0) :]
        known = torch.arange(len(before) + tokens) < len(before)
        wanted = Template(torch.cat([before, before.new_zeros(tokens)]), known)
        self.task.check_given(wanted)
        return wanted

    def _drawn(self, wishes: Sequence[Wish]) -> list[torch.Tensor]:
        model, drawn = self.model, list[torch.Tensor]()
        sampler = model.grid(max(self.steps, 1))[0].sampler()
        for start in range(0, len(wishes), self.batch):
            part = wishes[start : start + self.batch]
            drawn += fill_each(model.flow_map, sampler, part, self.task.length, model.device)
        return drawn


def _arguments(request: Instance) -> tuple[Any, ...]:
    """Context and answer, text alone, or context and settings."""
    return request.arguments


def _group(request: Instance) -> str:
    """The question that a request belongs to, whose choices see the same noise."""
    return f"{request.task_name} {request.doc_id}"

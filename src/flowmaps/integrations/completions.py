"""Requests for completions as OpenAI's clients write them, and their answers."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from random import SystemRandom
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from torch import Tensor

from ..hub import Model
from ..likelihood.rows import number_of
from ..samplers import Decoder, Euler, Heun, Sampler, at_temperature
from ..samplers.grids import TimeGrid
from ..tasks.text import Text
from ..tasks.text_prompts import Template, Wish, template, until

ONLY = {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "stream": False}  # else refused
Grid = Literal["tuned", "uniform"] | list[float]


@dataclass(frozen=True)
class Limits:
    """What one request, and all that wait, may ask for.

    Arguments:
        tokens: Of one completion.
        given: Tokens of its prompt and suffix.
        choices: Completions of one request, over all its prompts.
        steps: Network evaluations.
        rows: Completions that wait; a request beyond is answered with 429.
        batch: Completions of one network call.
        body: Bytes of a request.
        seconds: After which a request is answered with 503.
    """

    tokens: int = 1024
    given: int = 8192
    choices: int = 64
    steps: int = 256
    rows: int = 512
    batch: int = 32
    body: int = 2**20
    seconds: float = 300.0


class Request(BaseModel):
    """The body of ``POST /v1/completions``; fields of OpenAI's that this server cannot fulfil are refused unless they
    have their default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    prompt: str | list[str] = Field("", description="How the texts begin.")
    suffix: str | None = Field(None, description="How the texts go on after the completion.")
    max_tokens: int = Field(16, ge=1)
    n: int = Field(1, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="0 takes the most probable tokens.")
    seed: int | None = None
    stop: str | list[str] | None = Field(None, description="Completions end before the first of these.")
    echo: bool = False
    user: str | None = None
    steps: int | None = Field(None, ge=1, description="Network evaluations; those of the server by default.")
    sampler: Literal["jumps", "renoise", "euler", "heun"] = "jumps"
    grid: Grid = Field("tuned", description="tuned, uniform, or times from 0 to 1.")
    best_of: Literal[1] | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: None = None

    @field_validator(*ONLY)
    @classmethod
    def _only_default(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and value != ONLY[info.field_name or ""]:
            raise ValueError("a text is drawn as a whole, which knows nothing of it; leave it out")
        return value


class Refused(ValueError):
    """A request that is answered with an error.

    Arguments:
        status: Of HTTP.
        param: The field that is at fault.
        code: A word for programs.
    """

    def __init__(self, text: str, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(text)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, object]:
        """The answer as OpenAI's clients read it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def read(value: object) -> Request:
    """A request from its JSON value.

    Raises: Refused naming the first field that does not fit.
    """
    if not isinstance(value, dict):
        raise Refused(f"the body is {str(value)[:80]!r}, expected an object with model and prompt")
    try:
        return Request.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][:1]) or None
        said = "there is no such field" if first["type"] == "extra_forbidden" else first["msg"]
        raise Refused(f"{param} is {str(first.get('input'))[:80]!r}: {said}"[:300], param=param) from None


@dataclass(frozen=True)
class Work:
    """A request made ready.

    Arguments:
        request: The request.
        key: Requests with an equal one can be drawn together.
        sampler: The way from noise to data.
        wishes: The texts, ``n`` of each prompt.
        gaps: Where each one's completion stands in its text.
    """

    request: Request
    key: str
    sampler: Sampler
    wishes: list[Wish]
    gaps: list[tuple[int, int]]


def prepare(request: Request, model: Model, task: Text, limits: Limits, steps: int) -> Work:
    """What is to be drawn for a request.

    Arguments:
        steps: Network evaluations where the request says nothing.
    Raises: Refused if something is beyond a limit or cannot be said.
    """
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if not 1 <= len(prompts) * request.n <= limits.choices:
        raise Refused(
            f"{len(prompts)} prompts with n = {request.n}, expected 1 to {limits.choices} completions", param="n"
        )
    if request.max_tokens > limits.tokens:
        raise Refused(f"max_tokens is {request.max_tokens}, expected 1 to {limits.tokens}", param="max_tokens")
    sampler, key = chosen_sampler(request, model, limits, steps)
    heat = request.temperature
    decoder: Decoder = task.decoder if heat is None else at_temperature(heat)
    seed = SystemRandom().getrandbits(62) if request.seed is None else request.seed
    wishes: list[Wish] = []
    gaps: list[tuple[int, int]] = []
    for i, prompt in enumerate(prompts):
        wanted = wanted_of(task, prompt, request.suffix, request.max_tokens, limits)
        start = int((~wanted.known).nonzero()[0])
        wishes += [Wish(wanted, number_of(seed, i, k), decoder) for k in range(request.n)]
        gaps += [(start, start + request.max_tokens)] * request.n
    return Work(request, key, sampler, wishes, gaps)


def wanted_of(task: Text, prompt: str, suffix: str | None, tokens: int, limits: Limits) -> Template:
    """What is given of a text, and a gap of so many tokens.

    Raises: Refused if the alphabet cannot say it, or it is too long.
    """
    most = 64 * limits.given  # characters: no tokeniser is asked to read more
    if len(prompt) > most or len(suffix or "") > most:
        raise Refused(f"prompt or suffix has more than {most} characters, expected at most that", param="prompt")
    try:
        given = sum(len(task.tokeniser.spell(part)) for part in (prompt, suffix or "") if part)
        if given > limits.given:
            raise Refused(f"prompt and suffix have {given} tokens, expected at most {limits.given}", param="prompt")
        wanted = template(task.tokeniser, given + tokens, prompt or None, suffix=suffix or None)
        task.check_given(wanted)
    except Refused:
        raise
    except ValueError as error:
        raise Refused(str(error), param="prompt") from None
    return wanted


def chosen_sampler(request: Request, model: Model, limits: Limits, steps: int) -> tuple[Sampler, str]:
    """The way of sampling, and a text that is equal for equal ways.

    Raises: Refused if the grid is none, or has too many steps.
    """
    count = request.steps or (len(request.grid) - 1 if isinstance(request.grid, list) else steps)
    if count > limits.steps:
        raise Refused(f"steps is {count}, expected 1 to {limits.steps}", param="steps")
    try:
        if isinstance(request.grid, list):
            if request.steps not in (None, len(request.grid) - 1):
                raise Refused(f"steps is {request.steps}, but grid has {len(request.grid) - 1}", param="steps")
            grid = TimeGrid(tuple(request.grid))
            grid.sampler()
        else:
            tuned = request.grid == "tuned" and request.sampler in ("jumps", "renoise")
            grid = model.grid(count, "tuned" if tuned else "uniform")[0]
        return sampler_of(request.sampler, grid), f"{request.sampler} {grid}"
    except Refused:
        raise
    except ValueError as error:
        raise Refused(str(error), param="grid") from None


def sampler_of(name: str, grid: TimeGrid) -> Sampler:
    """A sampler by name on a grid."""
    jumps = grid.sampler()
    if name == "jumps":
        return jumps
    if name == "renoise":
        return grid.stochastic()
    return {"euler": Euler}.get(name, Heun)(jumps.times)


def answer(work: Work, drawn: list[Tensor], task: Text, name: str) -> dict[str, object]:
    """The answer to a request, as OpenAI's clients read it."""
    request = work.request
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    choices = []
    for i, (tokens, (start, end)) in enumerate(zip(drawn, work.gaps, strict=True)):
        whole = task.tokeniser.decode(tokens[start:end].tolist())
        text = until(whole, request.stop or [])
        head = prompts[i // request.n] if request.echo else ""
        choices.append({"text": head + text, "index": i, "logprobs": None,
                        "finish_reason": "stop" if len(text) < len(whole) else "length"})  # fmt: skip
    given = sum(int(wish.wanted.known.sum()) for wish in work.wishes[:: request.n])
    made = sum(end - start for start, end in work.gaps)
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": name,
        "choices": choices,
        "usage": {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made},
    }

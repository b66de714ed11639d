"""A server of completions by a text model, for OpenAI's clients."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import fastapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..hub import Model
from ..tasks.text import Text
from ..tasks.text_prompts import fill_each
from .batching import Batcher, Crowded
from .completions import Limits, Refused, answer, prepare, read

Handler = Callable[[fastapi.Request], Awaitable[JSONResponse]]


class Service:
    """A text model behind a queue, and what is answered to each path.

    Arguments:
        model: The model.
        name: What clients call it.
        steps: Network evaluations where a request says nothing.
        limits: Of requests.
    Raises: ValueError if the model is none of texts.
    """

    def __init__(self, model: Model, name: str, steps: int = 8, limits: Limits | None = None):
        if not isinstance(model.task, Text):
            raise ValueError(f"{model.folder} is a model of {type(model.task).__name__}; completions need one of Text")
        self.model, self.task, self.name, self.steps = model, model.task, name, steps
        self.limits, self.started = limits or Limits(), int(time.time())
        self.batcher = Batcher(
            lambda sampler, wishes: fill_each(model.flow_map, sampler, wishes, self.task.length, model.device),
            self.limits.batch,
            self.limits.rows,
        )

    async def completions(self, request: fastapi.Request) -> JSONResponse:
        """``POST /v1/completions``"""
        asked = read(await self._body(request))
        self._check_name(asked.model)
        work = await asyncio.to_thread(prepare, asked, self.model, self.task, self.limits, self.steps)
        try:
            future = self.batcher.submit(work.key, work.sampler, work.wishes)
        except Crowded as error:
            raise Refused(str(error), 429, code="rate_limit_exceeded") from None
        try:
            drawn = await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except TimeoutError:
            raise Refused(f"no answer within {self.limits.seconds:g} s; try again later", 503, code="timeout") from None
        return JSONResponse(answer(work, drawn, self.task, self.name))

    async def models(self, request: fastapi.Request) -> JSONResponse:
        """``GET /v1/models``"""
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def one_model(self, request: fastapi.Request) -> JSONResponse:
        """``GET /v1/models/NAME``"""
        self._check_name(request.path_params["name"])
        return JSONResponse(self._described())

    async def health(self, request: fastapi.Request) -> JSONResponse:
        """``GET /health``"""
        b = self.batcher
        return JSONResponse({"status": "ok", "model": self.name, "waiting": b.waiting, "batches": b.batches,
                             "texts": b.texts, "cpu_seconds": round(b.cpu_seconds, 3)})  # fmt: skip

    def _described(self) -> dict[str, object]:
        return {"id": self.name, "object": "model", "created": self.started, "owned_by": "flowmaps"}

    def _check_name(self, name: str) -> None:
        if name != self.name:
            raise Refused(f"there is no model {name!r:.80}, only {self.name!r}", 404, "model", "model_not_found")

    async def _body(self, request: fastapi.Request) -> object:
        """The JSON value of a body, of which no more is read than may be."""
        content = bytearray()
        async for piece in request.stream():
            content += piece
            if len(content) > self.limits.body:
                raise Refused(f"the body has more than {self.limits.body:,} bytes; ask for less at a time", 413)
        try:
            return json.loads(bytes(content))
        except (ValueError, RecursionError) as error:
            raise Refused(f"the body is no JSON ({str(error)[:100]})") from None


def application(service: Service) -> fastapi.FastAPI:
    """The server's application."""

    @asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.close)

    app = fastapi.FastAPI(title="flowmaps", lifespan=lifespan, openapi_url=None)
    routes: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/completions", service.completions),
        ("GET", "/v1/models", service.models),
        ("GET", "/v1/models/{name}", service.one_model),
        ("GET", "/health", service.health),
    ]
    for method, path, handler in routes:
        app.router.add_route(path, handler, methods=[method])
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _elsewhere)
    app.add_exception_handler(Exception, _fault)
    return app


def _refused(request: fastapi.Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    wait = {"Retry-After": "1"} if error.status in (429, 503) else None
    return JSONResponse(error.body(), error.status, wait)


def _elsewhere(request: fastapi.Request, error: Exception) -> JSONResponse:
    """No such path, or not by this method."""
    assert isinstance(error, HTTPException)
    paths = "POST /v1/completions, GET /v1/models and GET /health"
    refused = Refused(f"{request.method} {request.url.path:.80}: {error.detail}; there are {paths}", error.status_code)
    return JSONResponse(refused.body(), error.status_code)


def _fault(request: fastapi.Request, error: Exception) -> JSONResponse:
    print(f"flowmaps serve: {type(error).__name__}: {error}", file=sys.stderr)
    return JSONResponse(Refused("this is a fault of the server and not of your request", 500).body(), 500)

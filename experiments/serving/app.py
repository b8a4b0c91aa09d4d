"""The HTTP side: the completions interface of OpenAI, as far as a language model without chat has it.

A body is read whole, up to a limit of bytes and seconds, and refused with a JSON error that says what was wrong; then
each choice has a request of its own. When the client goes away, or the time of a request is over, its slots are free.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kleiber.experiments.api.writing import Writing
from kleiber.experiments.serving.answering import Answering, Ticket
from kleiber.experiments.serving.asked import Asked, RefusedError, read_asked
from kleiber.experiments.watching.access import is_allowed
from kleiber.train.data.tokenizers import Tokenizer

MOST_BYTES = 1 << 20
"""Of a body."""
BODY_SECONDS = 10.0
"""In which a body must have come."""


@dataclass
class Served:
    """A model behind the interface."""

    name: str
    answering: Answering
    tokenizer: Tokenizer
    separator: int
    encode: Callable[[str], list[int]]
    token: str = ""
    """That a request must show; empty where only this machine can ask."""
    most_seconds: float = 300.0
    """That a request may take, waiting included."""
    began: int = field(default_factory=lambda: int(time.time()))


class _Gone(Exception):
    """The client went away."""


class Completion:
    """The answer to one body: it sends itself, at once or as server-sent events."""

    def __init__(self, served: Served, asked: Asked):
        """Puts its requests into the queue, or raises RefusedError."""
        self.served, self.asked = served, asked
        self.events: asyncio.Queue[tuple[int, list[int], bool, str]] = asyncio.Queue()
        self.writings = [Writing(served.tokenizer, asked.stops) for _ in asked.requests]
        self.num_tokens = [0] * len(asked.requests)
        self.id, self.created, self.has_begun = f"cmpl-{uuid.uuid4().hex}", int(time.time()), False
        loop = asyncio.get_running_loop()

        def listener(number: int) -> Callable[[list[int], bool, str], None]:
            def hear(tokens: list[int], has_ended: bool, problem: str) -> None:
                try:
                    loop.call_soon_threadsafe(self.events.put_nowait, (number, tokens, has_ended, problem))
                except RuntimeError:  # the loop has ended, and nobody listens
                    pass

            return hear

        self.tickets = [Ticket(request, listener(number)) for number, request in enumerate(asked.requests)]
        served.answering.submit(self.tickets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer; whatever happens meanwhile, no slot stays taken."""
        seconds = self.served.most_seconds
        try:
            async with asyncio.timeout(seconds):
                await _while_there(receive, self._stream(send) if self.asked.is_stream else self._whole(scope, send))
        except _Gone:
            pass
        except TimeoutError:
            told = f"no whole answer within the {seconds:g} s that a request may take, waiting included."
            await self._fail(RefusedError(503, told, None, "timeout"), scope, send)
        except RefusedError as problem:
            await self._fail(problem, scope, send)
        finally:
            for ticket in self.tickets:
                self.served.answering.drop(ticket)

    async def _texts(self) -> AsyncIterator[tuple[int, str, str | None]]:
        """Yields (choice, text that was added, why it ended), until all have ended."""
        left = set(range(len(self.tickets)))
        while left:
            number, tokens, has_ended, problem = await self.events.get()
            if problem:
                raise RefusedError(503, problem, None, "unavailable")
            if number not in left:  # it has met its stop, and was told of once more
                continue
            self.num_tokens[number] += len(tokens)
            writing, request = self.writings[number], self.asked.requests[number]
            text = writing.add(tokens)
            if has_ended or writing.is_over:
                left.remove(number)
                self.served.answering.drop(self.tickets[number])
                is_cut = not writing.is_over and self.num_tokens[number] == request.num_tokens
                yield number, text + writing.end(), "length" if is_cut else "stop"
            elif text:
                yield number, text, None

    async def _whole(self, scope: Scope, send: Send) -> None:
        texts, reasons = [""] * len(self.tickets), [""] * len(self.tickets)
        async for number, text, reason in self._texts():
            texts[number] += text
            reasons[number] = reason or ""
        choices = [self._choice(number, *each) for number, each in enumerate(zip(texts, reasons, strict=True))]
        await JSONResponse(self._object(choices) | {"usage": self._usage()})(scope, _nothing, send)

    async def _stream(self, send: Send) -> None:
        async for number, text, reason in self._texts():
            await self._event(send, self._object([self._choice(number, text, reason)]))
        if self.asked.has_usage:
            await self._event(send, self._object([]) | {"usage": self._usage()})
        await self._event(send, None)

    async def _event(self, send: Send, data: dict[str, Any] | None) -> None:
        """Sends an event, or the end of them."""
        if not self.has_begun:
            self.has_begun = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        line = "[DONE]" if data is None else json.dumps(data, separators=(",", ":"))
        body = f"data: {line}\n\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": data is not None})

    async def _fail(self, problem: RefusedError, scope: Scope, send: Send) -> None:
        """Sends an error, or as the last event what went wrong behind the first."""
        if not self.has_begun:
            return await _refusal(problem)(scope, _nothing, send)
        try:
            async with asyncio.timeout(1):  # who does not read is not waited for
                await self._event(send, problem.body())
                await self._event(send, None)
        except TimeoutError:
            pass

    def _choice(self, number: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": number, "text": text, "logprobs": None, "finish_reason": reason}

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        told = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.served.name}
        return {**told, "choices": choices}

    def _usage(self) -> dict[str, int]:
        prompt, drawn = self.asked.num_prompt_tokens, sum(self.num_tokens)
        return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}


async def _while_there(receive: Receive, work: Awaitable[None]) -> None:
    """Does some work, or raises _Gone if the client goes away before it is done."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise _Gone
        tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _nothing() -> dict[str, Any]:
    """Receives no more of a request that was read."""
    return {"type": "http.disconnect"}


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of another site cannot send this without being asked first
        told = f"content-type is {kind[:60] or 'not given'}, expected application/json."
        raise RefusedError(415, told, None, "content_type")
    too_large = RefusedError(413, f"the body is larger than {MOST_BYTES:,} bytes.", None, "body_too_large")
    body, num_bytes = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                num_bytes += len(part)
                if num_bytes > 16 * MOST_BYTES:
                    raise too_large
                if num_bytes <= MOST_BYTES:  # what is somewhat larger is heard out, so that the sender reads why
                    body += part
    except TimeoutError:
        raise RefusedError(408, f"no whole body within {BODY_SECONDS:g} s.", None, "timeout") from None
    if num_bytes > MOST_BYTES:
        raise too_large
    return bytes(body)


def _refusal(problem: RefusedError) -> Response:
    headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(problem.status, {})
    if problem.status in (408, 413):  # the rest of the body is not read
        headers = {"Connection": "close"}
    return JSONResponse(problem.body(), problem.status, headers)


def make_app(served: Served) -> Any:
    """Returns the ASGI application that serves a model."""
    model = {"id": served.name, "object": "model", "created": served.began, "owned_by": "kleiber"}
    engine = served.answering.engine

    async def complete(request: Request) -> Any:
        body = await _body(request)
        places = engine.config.seq_len - engine.config.num_virtual_tokens
        told = (served.name, places, served.separator, served.encode)
        asked = read_asked(body, *told)
        try:
            for each in asked.requests:
                each.check(engine.config)
        except ValueError as mistake:
            raise RefusedError(400, str(mistake), "prompt") from None
        return Completion(served, asked)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    async def one_model(request: Request) -> Response:
        if request.path_params["name"] != served.name:
            raise RefusedError(404, f"only '{served.name}' is served here.", "model", "model_not_found")
        return JSONResponse(model)

    async def health(request: Request) -> Response:
        running, waiting = served.answering.load
        problem = served.answering.problem
        told = {"status": problem or "ok", "slots": engine.num_slots, "running": running, "waiting": waiting}
        return JSONResponse(told, 503 if problem else 200)

    async def refused(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, RefusedError)
        return _refusal(problem)

    async def not_found(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        there = "POST /v1/completions, GET /v1/models, GET /v1/models/NAME and GET /health"
        return _refusal(RefusedError(problem.status_code, f"{problem.detail}: there is {there}.", None, "not_found"))

    async def gone(request: Request, problem: Exception) -> Response:
        return Response(status_code=400)  # nobody reads it

    routes = [
        Route("/v1/completions", complete, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route("/health", health),
    ]
    handlers = {RefusedError: refused, HTTPException: not_found, ClientDisconnect: gone}
    app = Starlette(routes=routes, exception_handlers=handlers)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Request(scope).headers
            given = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not is_allowed(served.token, given, headers.get("host", "")):
                told = "give the token that kleiber serve printed, as Authorization: Bearer TOKEN"
                told = told if served.token else "this server answers at the address that kleiber serve printed"
                code = 401 if served.token else 403
                return await _refusal(RefusedError(code, f"{told}.", None, "not_allowed"))(scope, receive, send)
        await app(scope, receive, send)

    return guarded

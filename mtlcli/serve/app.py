"""The application: what the paths answer, and how a request is read, waited for and refused."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
import traceback
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import mtlcli
from mtlcli.errors import MtlError, Problem, UserError
from mtlcli.predict.predictor import Predictor
from mtlcli.registry import suggest
from mtlcli.serve.asked import NotJson, as_json, asked, brief, failure, trimmed
from mtlcli.serve.batching import Batcher, Full
from mtlcli.serve.limits import MEGABYTE, Limits

PATHS = ("/", "/predict", "/tasks", "/health", "/openapi.json")
PAGE = Path(__file__).with_name("page.html")
_TASK = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_ROW = {"oneOf": [{"type": "string"}, {"type": "array"}, {"type": "object"}]}
_BODY = {
    "type": "object",
    "required": ["inputs"],
    "additionalProperties": False,
    "properties": {"task": _TASK, "inputs": {"type": "array", "items": _ROW}},
}
_REFUSALS = {
    400: "the body is not JSON",
    408: "the body comes too slowly",
    413: "the body is too large",
    422: "no such task, missing columns, or inputs that cannot be read",
    503: "too many requests wait; the header Retry-After says when to come back",
    504: "the answer takes too long",
}


class Json(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes of the content."""
        return as_json(content)


class Refusal(Exception):
    """Exception that ends a request with an error."""

    def __init__(self, status: int, problems: Sequence[Problem], **headers: str) -> None:
        super().__init__(status)
        self.status, self.problems = status, problems
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Draining(Json):
    """An error that is sent while the client still sends its body. What comes is dropped for some
    seconds: the client would lose the answer if the connection were closed at once."""

    def __init__(self, content: Any, status: int, seconds: float) -> None:
        super().__init__(content, status, {"connection": "close"})
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, and drop what comes."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        expects = any(name == b"expect" for name, _ in scope["headers"])
        if not expects:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._drain(receive), self._seconds)
        await send({"type": "http.response.body", "body": b""})

    @staticmethod
    async def _drain(receive: Receive) -> None:
        while (await receive()).get("more_body"):
            continue


class Service:
    """A model with its queue, as an application for uvicorn."""

    def __init__(self, model: Predictor, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.answered = 0
        """The number of requests with predictions."""
        self.batcher = Batcher(
            model, waiting=limits.waiting, size=limits.waiting_size, rows=model.batch_size
        )
        self._page, self._policy = page()
        # The library's pages of documentation load their scripts from another server.
        self.app = FastAPI(
            title="mtl serve", version=mtlcli.__version__, docs_url=None, redoc_url=None
        )
        errors: dict[int | str, dict[str, Any]] = {
            code: {"description": text} for code, text in _REFUSALS.items()
        }
        body = {"required": True, "content": {"application/json": {"schema": _BODY}}}
        add = self.app.add_api_route
        add(
            "/predict",
            self.predict,
            methods=["POST"],
            responses=errors,
            openapi_extra={"requestBody": body},
        )
        add("/tasks", self.tasks, methods=["GET"])
        add("/health", self.health, methods=["GET"])
        add("/", self.home, methods=["GET"], include_in_schema=False)
        self.app.add_exception_handler(Refusal, self._refused)
        self.app.add_exception_handler(HTTPException, self._no_page)
        self.app.add_exception_handler(Exception, self._failed)

    async def home(self) -> Response:
        """Return the page to try the tasks by hand."""
        headers = {
            "content-security-policy": self._policy,
            "x-content-type-options": "nosniff",
            "cache-control": "no-cache",
        }
        return Response(self._page, media_type="text/html", headers=headers)

    async def health(self) -> Response:
        """Return whether the server takes requests, and what it has done."""
        return Json(
            {
                "status": "ok",
                "waiting": self.batcher.waiting,
                "answered": self.answered,
                "batches": self.batcher.batches,
                "batched": self.batcher.batched,
            }
        )

    async def tasks(self) -> Response:
        """Return the tasks, with the columns that they read, and the limits of a request."""
        return Json(
            {
                "run": self.model.path.name,
                "step": self.model.step,
                "sharing": self.model.config.sharing.name,
                "tasks": [asdict(task) for task in self.model.tasks.values()],
                "limits": asdict(self.limits),
            }
        )

    async def predict(self, request: Request) -> Response:
        """Return a prediction for each input, in order; for a list of tasks, an object with those
        of each. An input is a text, the values of a task's columns in order, or an object."""
        body = await self._body(request)
        try:
            wanted = asked(body, rows=self.limits.rows, tasks=len(self.model.tasks))
            names = self.model.names(wanted.task)
        except NotJson as error:
            raise Refusal(400, error.problems) from error
        except UserError as error:
            raise Refusal(422, error.problems) from error
        found: dict[str, list[Any]] = dict.fromkeys(names, [])
        if wanted.inputs:
            tasks = [self.model.tasks[name] for name in names]
            columns = [column for task in tasks for column in (*task.columns, *task.optional)]
            inputs = trimmed(wanted.inputs, columns)
            found = await self._answer(request, inputs, names, len(body))
        self.answered += 1
        several = isinstance(wanted.task, list)
        return Json({"predictions": found if several else found[names[0]]})

    async def _body(self, request: Request) -> bytes:
        """Return the body of a request. Raises Refusal when it is too large or too slow."""
        most, seconds = self.limits.size, self.limits.read_seconds
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        body = bytearray()
        if int(request.headers.get("content-length", 0)) > most:
            raise Refusal(413, [self._too_large()])
        while True:
            try:
                message = await asyncio.wait_for(request.receive(), max(0.0, end - clock()))
            except asyncio.TimeoutError:
                what = f"the body has not arrived within {seconds:g} s ({len(body):,} bytes have)"
                fix = "send it faster, or less of it"
                raise Refusal(408, [Problem(what, "body", fix)], connection="close") from None
            if message["type"] == "http.disconnect":
                raise Refusal(400, [Problem("the client has gone")])
            body += message.get("body", b"")
            if len(body) > most:
                raise Refusal(413, [self._too_large()])
            if not message.get("more_body"):
                return bytes(body)

    def _too_large(self) -> Problem:
        return Problem(
            f"the body has more than {self.limits.size / MEGABYTE:g} MB",
            "body",
            "send the inputs in several requests, or start the server with a higher --max-size",
        )

    async def _answer(
        self, request: Request, inputs: list[Any], names: list[str], size: int
    ) -> dict[str, list[Any]]:
        """Return the predictions. Raises Refusal when there are none in time."""
        try:
            job = self.batcher.submit(inputs, names, size)
        except Full:
            what = f"too many requests wait for the model ({self.batcher.waiting})"
            problem = Problem(what, "server", "try again in a second")
            raise Refusal(503, [problem], retry_after="1") from None
        # A client that has gone needs no answer.
        future = asyncio.wrap_future(job.answer)
        gone = asyncio.ensure_future(_gone(request))
        waited: set[asyncio.Future[Any]] = {future, gone}
        seconds = self.limits.answer_seconds
        await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not future.done():
            job.abandon()
            future.cancel()
            what = f"the request was not answered within {seconds:g} s"
            fix = "send fewer inputs, or try again when fewer requests wait"
            raise Refusal(504, [Problem(what, "server", fix)])
        try:
            return await future
        except UserError as error:
            raise Refusal(422, error.problems) from error
        except MtlError as error:
            _log(error)
            raise Refusal(500, error.problems) from error

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        content = failure(error.problems)
        if error.status == 413:
            return Draining(content, 413, self.limits.read_seconds)
        return Json(content, error.status, error.headers)

    async def _no_page(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, method = request.url.path, request.method
        fix = suggest(brief(path), PATHS)
        what = f"there is no {brief(path)}"
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "GET")
            what, fix = f"{path} does not take {method}", f"send {allowed}"
        return Json(failure([Problem(what, "path", fix)]), error.status_code, error.headers)

    async def _failed(self, request: Request, error: Exception) -> Response:
        _log(error)
        what = f"the server failed: {type(error).__name__}"
        return Json(failure([Problem(what, "server", "its log on standard error says more")]), 500)


async def _gone(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _log(error: BaseException) -> None:
    """Write an error of the server, which its keeper has to see, to standard error."""
    print("".join(traceback.format_exception(error)), file=sys.stderr, end="", flush=True)


def page() -> tuple[str, str]:
    """Return the page, and its content security policy: nothing but its own script and style runs,
    whatever a model or a task file says."""
    text = PAGE.read_text(encoding="utf-8")

    def hashed(tag: str) -> str:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    policy = (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text, policy

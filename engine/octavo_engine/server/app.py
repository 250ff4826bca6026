"""The HTTP surface: which path leads to what. Heavy lifting lives in the modules named by the imports."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from octavo_engine.errors import EngineError, RequestError
from octavo_engine.server.answer import Answer
from octavo_engine.server.chat import begin_chat
from octavo_engine.server.completions import begin_completion
from octavo_engine.server.errors import error_response
from octavo_engine.server.metrics import CONTENT_TYPE
from octavo_engine.server.prompts import chat_prompt
from octavo_engine.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationRequest,
    TokenizeRequest,
    parse,
)
from octavo_engine.server.serving import Serving
from octavo_engine.version import installed_version

_MAX_BODY = 64 * 1024 * 1024  # bytes
_ALIVE = ("ok", "loading", "draining")


def create_app(serving: Serving, allowed_origins: Sequence[str] = ()) -> FastAPI:
    """The application. Its state is ``serving``; several may live in one process.

    Pages of `allowed_origins` may ask it from a browser; "*" are all.
    """
    app = FastAPI(title="Octavo engine", version=installed_version(), openapi_url=None)
    app.include_router(_probes(serving))
    app.include_router(_api(serving))
    if allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_exception_handler(EngineError, _on_engine_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_fault)
    return app


def _probes(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health(probe: str = "ready") -> Response:
        status, message = serving.health
        well = status in _ALIVE if probe == "live" else status == "ok"
        return _json({"status": status, "message": message, "load": serving.load}, 200 if well else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(serving.metrics.render(), media_type=CONTENT_TYPE)

    @router.get("/version")
    async def tell_version() -> Response:
        return _json({"version": installed_version()})

    return router


def _api(serving: Serving) -> APIRouter:
    async def authorize(request: Request) -> None:
        serving.check_key(request.headers.get("authorization"))

    router = APIRouter(dependencies=[Depends(authorize)])

    @router.post("/v1/completions")
    async def completions(request: Request) -> Response:
        arrived = time.perf_counter()
        body = parse(CompletionRequest, await _body(request))
        _check_stream(body)
        return Answer(serving, lambda: begin_completion(serving, body, arrived), stream=bool(body.stream))

    @router.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        arrived = time.perf_counter()
        body = parse(ChatRequest, await _body(request))
        _check_stream(body)
        return Answer(serving, lambda: begin_chat(serving, body, arrived), stream=bool(body.stream))

    @router.get("/v1/models")
    async def models() -> Response:
        return _json(
            {"object": "list", "data": [_model(serving, name) for name in serving.options.model_names]}
        )

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return _json(_model(serving, serving.check_model(name)))

    @router.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        return _json(await _tokenize(serving, parse(TokenizeRequest, await _body(request))))

    @router.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        body = parse(DetokenizeRequest, await _body(request))
        return _json({"prompt": await _detokenize(serving, body)})

    return router


async def _body(request: Request) -> bytes:
    """The request's body. Errors: :class:`RequestError` 413 when it is larger than the server will hold."""
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > _MAX_BODY:
            raise RequestError(f"The body is larger than {_MAX_BODY >> 20} MiB.", status=413)
    return b"".join(parts)


def _check_stream(request: GenerationRequest) -> None:
    if request.stream and request.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs needs stream to be false.", param="prompt_logprobs")
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options is only allowed when stream is true.", param="stream_options")


async def _tokenize(serving: Serving, request: TokenizeRequest) -> dict[str, Any]:
    serving.check_model(request.model)
    if (request.prompt is None) == (request.messages is None):
        raise RequestError("Give either prompt or messages, and not both.", param="prompt")
    if request.messages is not None:
        prompt = await chat_prompt(
            serving,
            request.messages,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            variables=request.chat_template_kwargs or {},
        )
    else:
        special = request.add_special_tokens is not False
        prompt = await serving.encode(request.prompt or "", special)
    tokens = prompt.token_ids
    strings = [serving.tokenizer.token(token) for token in tokens] if request.return_token_strs else None
    return {
        "count": len(tokens),
        "max_model_len": serving.ready.max_model_len,
        "tokens": tokens,
        "token_strs": strings,
    }


async def _detokenize(serving: Serving, request: DetokenizeRequest) -> str:
    serving.check_model(request.model)
    tokenizer = serving.tokenizer
    unknown = next((token for token in request.tokens if not 0 <= token < tokenizer.vocab_size), None)
    if unknown is not None:
        end = tokenizer.vocab_size - 1
        raise RequestError(f"tokens holds {unknown}; token ids lie between 0 and {end}.", param="tokens")
    return await serving.in_thread(lambda: tokenizer.decode(request.tokens, skip_special_tokens=False))


def _model(serving: Serving, name: str) -> dict[str, Any]:
    ready = serving.core.ready
    return {
        "id": name,
        "object": "model",
        "created": serving.created,
        "owned_by": "octavo",
        "root": serving.options.engine.model.source,
        "parent": None,
        "max_model_len": ready.result().max_model_len if ready.done() else None,
        "vocab_size": ready.result().vocab_size if ready.done() else None,
    }


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _on_engine_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return error_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same shape as every other error."""
    assert isinstance(error, HTTPException)
    sentence = f"{request.method} {request.url.path} is not served here ({error.detail})."
    if request.url.path == "/v1/embeddings":
        sentence = "/v1/embeddings is not served yet; this server generates text."
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    return error_response(RequestError(sentence, status=error.status_code, kind=kind))


async def _on_fault(_request: Request, error: Exception) -> Response:
    sentence = f"The server failed while answering ({type(error).__name__})."
    return error_response(RequestError(sentence, status=500, kind="server_error"))

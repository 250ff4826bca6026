"""What the server is started with, besides the engine's own configuration."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo_engine.config import EngineConfig


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    engine: EngineConfig = EngineConfig()
    host: str = "0.0.0.0"
    port: int = 8000
    served_model_names: tuple[str, ...] = ()  # empty: the model source itself
    api_key: str | None = None
    tokenizer: str | None = None  # None: the model's own
    chat_template: str | None = None  # a file; None: the model's own
    generation_defaults: dict[str, Any] = {}  # sampling parameters where a request is silent
    allowed_origins: tuple[str, ...] = ()  # of web pages whose browsers may ask; "*": of all
    drain_timeout: float = 30.0  # seconds that running requests get after SIGTERM
    api_workers: int = 1  # processes that share the port

    @property
    def model_names(self) -> tuple[str, ...]:
        return self.served_model_names or (self.engine.model.source,)

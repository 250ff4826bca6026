"""API keys: who may ask, for which namespace's models, and for how many tokens a minute. Pure.

Keys are kept and looked for by their SHA-256, so that neither memory nor the time of a look-up tells of them.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

import msgspec

from octavo_router.errors import TokenRateError, WrongKeyError
from octavo_router.metrics import Figures, KeyFigures

MIN_LENGTH = 16  # characters; shorter ones can be guessed
MAX_LIMIT = 999_999_999_999_999  # tokens a minute; a float still counts each of them
_MINUTE_S = 60.0


class KeySpec(msgspec.Struct, frozen=True):
    """One key as a Secret holds it."""

    name: str  # "namespace/secret/entry"
    namespace: str
    digest: bytes
    tokens_per_minute: int | None = None

    @property
    def term(self) -> str:
        """A name of this key under this limit, for routers among themselves: a change begins a new one."""
        limited = sha256(b"%b %d" % (self.digest, self.tokens_per_minute or 0))
        return f"{self.name}#{limited.hexdigest()[:8]}"


class TokenRate:
    """A bucket of tokens: full at first, filled up again in a minute.

    What a request takes is known only at its end: it may go while anything is left, and what it takes too
    much has to be waited for.
    """

    __slots__ = ("_left", "_since", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = float(limit)
        self._since = -math.inf

    def wait_s(self, now: float) -> float:
        """How long until a request may go; 0: now."""
        self._left = min(float(self.limit), self._left + self.limit / _MINUTE_S * (now - self._since))
        self._since = now
        return 0.0 if self._left > 0 else (1 - self._left) * _MINUTE_S / self.limit

    def spend(self, tokens: int) -> None:
        """Takes tokens; less than none gives back."""
        self._left -= tokens


class Key:
    """A key that is accepted, and what has been asked with it."""

    __slots__ = ("_term", "figures", "rate", "spec")

    def __init__(self, spec: KeySpec, figures: KeyFigures) -> None:
        self.spec = spec
        self.figures = figures
        self._term = spec.term
        self.rate = TokenRate(spec.tokens_per_minute) if spec.tokens_per_minute else None

    def check_rate(self, now: float) -> None:
        """Raises TokenRateError while the key has no tokens left."""
        wait_s = self.rate.wait_s(now) if self.rate is not None else 0.0
        if self.rate is not None and wait_s:
            self.figures.refused += 1
            raise TokenRateError(
                f"This API key has used its {self.rate.limit} tokens a minute; "
                f"try again in {math.ceil(wait_s)} s.",
                math.ceil(wait_s),
            )

    def used(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.figures.prompt_tokens += prompt_tokens
        self.figures.completion_tokens += completion_tokens
        if self.rate is not None:
            tokens = prompt_tokens + completion_tokens
            self.rate.spend(tokens)
            self.figures.limited[self._term] = self.figures.limited.get(self._term, 0) + tokens

    def used_elsewhere(self, tokens: Mapping[str, int], now: float) -> None:
        """Takes what was used of this limit at other routers; of what is told late, two minutes' at most."""
        if self.rate is not None:
            self.rate.wait_s(now)  # fills it up first
            self.rate.spend(min(tokens.get(self._term, 0), 2 * self.rate.limit))


class Keyring:
    """All keys that are accepted now."""

    def __init__(self, figures: Figures, warn: Callable[[str], None] = lambda sentence: None) -> None:
        self._figures = figures
        self._warn = warn
        self._secrets: dict[str, tuple[KeySpec, ...]] = {}
        self._by_digest: dict[bytes, Key] = {}

    def replace(self, secrets: Mapping[str, Iterable[KeySpec]]) -> None:
        """Takes in changed Secrets: "namespace/secret" -> its keys, none when it is gone."""
        for name, specs in secrets.items():
            self._secrets[name] = tuple(specs)
            if not self._secrets[name]:
                del self._secrets[name]
        former = {key.spec: key for key in self._by_digest.values()}
        self._by_digest = {}
        for spec in sorted((s for specs in self._secrets.values() for s in specs), key=lambda s: s.name):
            if first := self._by_digest.get(spec.digest):
                self._warn(f"The API key {spec.name} is the same as {first.spec.name}, which counts.")
                continue
            self._by_digest[spec.digest] = former.get(spec) or Key(spec, self._figures.of_key(spec.name))

    def used(self) -> dict[str, int]:
        """Term of a limit -> tokens used of it here since this process started."""
        return self._figures.limited_tokens()

    def used_elsewhere(self, tokens: Mapping[str, int], now: float) -> None:
        """Takes what has been used at other routers."""
        for key in self._by_digest.values():
            key.used_elsewhere(tokens, now)

    def find(self, authorization: bytes | None) -> Key:
        """The key that an Authorization header carries. Raises WrongKeyError."""
        scheme, _, given = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not given:
            raise WrongKeyError("The request carries no API key; send the header Authorization: Bearer KEY.")
        digest = sha256(given.strip()).digest()
        key = self._by_digest.get(digest)
        if key is None or not hmac.compare_digest(key.spec.digest, digest):
            raise WrongKeyError("This API key is not known here; check it, or ask who gave it to you.")
        return key

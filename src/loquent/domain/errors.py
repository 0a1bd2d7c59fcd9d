"""Our own errors: the class is the meaning, the message helps the person who reads it.

LoquentError
├── Invalid            what was asked cannot be done as asked (``field`` names the place)
│   ├── TooLarge       over a size limit
│   ├── Unsupported    a kind of file or body that is not taken
│   ├── ContextOverflow  the input does not fit the model's context
│   └── Mismatch       an Idempotency-Key came again with another body
├── Unauthenticated    nobody known asked
├── Forbidden          somebody known asked for what is not theirs to do
├── NotFound           not there, or another's, which is the same
├── Gone               it was there, and has come to its end
├── Conflict           true of the request, not of the moment
│   ├── Taken          a unique key is in use (``key`` names it)
│   ├── Stale          the record has changed since it was read
│   └── StillRunning   the same request is being worked on
├── Limited            over a rate (``retry_after`` seconds: waiting that long succeeds)
├── Unavailable        a part is away for now (``retry_after`` seconds where known)
│   ├── NotYet         something has to come first: no fault, and no attempt of a job
│   │   └── ModelLoading  the model is not in memory yet
│   ├── OutOfSpace     a disk is nearly full: nothing new is begun
│   ├── NotInstalled   what it needs is not on this machine
│   └── EngineBusy     the engine said: later
├── EngineFailed       the engine answered with a fault that will not pass
├── EngineTimeout      the engine was too slow
├── Cancelled          somebody asked to stop it
├── Fenced             another worker holds this generation now; this result is dropped
└── Misconfigured      a setting cannot be used: the start stops with this line
"""

from __future__ import annotations

SPACE_SECONDS = 15.0  # after which there may be room again on a disk that was full


class LoquentError(Exception):
    """The root: everything that Loquent raises on purpose."""

    code = "error"
    engine_status: int | None = None  # of HTTP, where a remote engine gave one in place of an answer

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(LoquentError):
    """What was asked cannot be done as asked; ``field`` names the place, empty for the whole."""

    code = "invalid"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class TooLarge(Invalid):
    """Over a size limit."""

    code = "too_large"


class Unsupported(Invalid):
    """A kind of file or body that is not taken."""

    code = "unsupported"


class ContextOverflow(Invalid):
    """The input and the asked-for output do not fit the model's context."""

    code = "context_length_exceeded"


class Mismatch(Invalid):
    """An Idempotency-Key came again with another body."""

    code = "idempotency_mismatch"


class Unauthenticated(LoquentError):
    """Nobody known asked."""

    code = "unauthenticated"


class Forbidden(LoquentError):
    """Somebody known asked for what is not theirs to do."""

    code = "forbidden"


class NotFound(LoquentError):
    """Not there, or another's, which is the same to the one who asks."""

    code = "not_found"


class Gone(LoquentError):
    """It was there, and has come to its end: nothing brings it back."""

    code = "gone"


class Conflict(LoquentError):
    """True of the request, not of the moment."""

    code = "conflict"


class Taken(Conflict):
    """A unique key is in use; ``key`` is its declared name, or ``id``."""

    code = "taken"

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is taken")
        self.key = key


class Stale(Conflict):
    """The record has changed since it was read, or is gone."""

    code = "stale"

    def __init__(self, message: str = "the record has changed since it was read") -> None:
        super().__init__(message)


class StillRunning(Conflict):
    """The same request, by its Idempotency-Key, is being worked on."""

    code = "still_running"


class Limited(LoquentError):
    """Over a rate; waiting ``retry_after`` seconds succeeds."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(LoquentError):
    """A part is away for now. From a store's ``write``: unknown whether it happened."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotYet(Unavailable):
    """Something has to come first: a job tries again later, and that counts as no attempt."""

    code = "not_yet"


class ModelLoading(NotYet):
    """The model is not in memory yet."""

    code = "model_loading"


class OutOfSpace(Unavailable):
    """A disk is full, or nearly: nothing new is begun, and what there is can be read and removed."""

    code = "insufficient_storage"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=SPACE_SECONDS)


class NotInstalled(Unavailable):
    """What it needs is not on this machine; somebody has to fetch it first."""

    code = "not_installed"


class EngineBusy(Unavailable):
    """The engine said: later (a full queue, or its own rate limit)."""

    code = "engine_busy"


class EngineFailed(LoquentError):
    """The engine answered with a fault that will not pass by trying again."""

    code = "engine_failed"


class EngineTimeout(LoquentError):
    """The engine was too slow."""

    code = "engine_timeout"


class Cancelled(LoquentError):
    """Somebody asked to stop it."""

    code = "cancelled"


class Fenced(LoquentError):
    """Another worker holds this generation now; this result is dropped."""

    code = "fenced"


class Misconfigured(LoquentError):
    """A setting cannot be used: the start stops with this one line. ``field``: of a row, or its variable."""

    code = "misconfigured"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field

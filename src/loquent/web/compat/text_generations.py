"""The textgen family's surface: /users, /token, /models and /text_generations, which goes on from a prompt.

Every error is ``{"detail": "[Ecode] text"}``. E001 to E010 are the family's own; those of CODES are ours, for what the
family says nothing of. Only who brings no token at all is told ``Not authenticated``, without a code, as there.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import Field

from loquent.domain.errors import Forbidden, Invalid, LoquentError, NotFound, Taken, Unauthenticated
from loquent.domain.generations import COMPLETED, Content
from loquent.domain.principals import Principal
from loquent.domain.requests import Parameters
from loquent.domain.usage import estimate_tokens
from loquent.services.history import Filters
from loquent.services.models import Offer
from loquent.services.wanted import Wanted
from loquent.web import logins
from loquent.web.answers import json_answer
from loquent.web.body import LOOSE, Wire, check_is_json, read_json
from loquent.web.deps import Ours, StrictRoute, WhoByToken, check_form
from loquent.web.direct import Call, Direct, NoToken, by_token
from loquent.web.errors import Dressed, Plain, about, rate_headers, status
from loquent.web.lists import list_of
from loquent.wiring import Services

router = APIRouter(tags=["textgen"], route_class=StrictRoute)
SURFACE = "textgen"
PREFIXES = ("/users", "/token", "/models", "/text_generations")
LONGEST = 1_000_000  # characters of a prompt; the body's bound is usually the nearer one
MAX_LENGTH = 256  # tokens of prompt and completion, of users who have set nothing

CODES = {
    400: "E011",  # no HTTP that can be understood
    422: "E012",  # a body or a field that cannot be used
    403: "E013",
    404: "E014",  # nothing at this path
    405: "E015",  # another method is meant
    408: "E016",  # the body did not come in time
    409: "E017",  # the same Idempotency-Key is being worked on, or the work was cancelled
    413: "E018",
    415: "E019",  # no JSON, or no form, where one is meant
    429: "E020",  # over a rate; Retry-After says when to come again
    431: "E021",
    421: "E022",  # a host name that is not served here
    500: "E023",
    502: "E024",  # the model failed
    503: "E025",  # the model is loading or away, or the server stops
    504: "E026",  # the model was too slow
    507: "E027",  # the disk is nearly full
}
"""Our own codes, by status."""


class Coded(Plain):
    """An error that the family has a code for."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, f"[{code}] {message}")


class NewAccount(Wire):
    """A new account."""

    username: Annotated[str, Field(min_length=1, max_length=64)]
    password: Annotated[str, Field(min_length=8, max_length=1024)]


class NewPrompt(Wire):
    """A text to go on from."""

    prompt: Annotated[str, Field(max_length=LONGEST)]


@router.post("/users", summary="Register")
async def create_account(request: Request, ours: Ours, body: NewAccount) -> Response:
    """Make an account."""
    try:
        user = await logins.register(request, ours, body.username, body.password)
    except Taken:
        raise Coded(400, "E008", f"User with username {body.username} already exists") from None
    return json_answer({"username": user.username})


@router.post("/token", summary="Log in", dependencies=[Depends(check_form)])
async def create_token(
    request: Request,
    ours: Ours,
    username: Annotated[str, Form(max_length=1024)],
    password: Annotated[str, Form(max_length=1024)],
) -> Response:
    """An access token for a name and a password (OAuth2 password form)."""
    try:
        token = await logins.log_in(request, ours, username, password)
    except Unauthenticated:
        raise Coded(400, "E003", "Incorrect username or password") from None
    except Forbidden:
        raise Coded(400, "E009", "User account is inactive") from None
    return json_answer({"access_token": token, "token_type": "bearer"}, headers=[(b"cache-control", b"no-store")])


PRESET_BODY = {
    "type": "object",
    "required": ["max_length", "temperature", "top_p"],
    "additionalProperties": False,
    "properties": {
        "max_length": {"type": "integer", "minimum": 1, "description": "tokens of prompt and completion together"},
        "temperature": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    },
}


@router.put(
    "/models",
    summary="Set one's own parameters",
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": PRESET_BODY}}}},
)
async def put_preset(request: Request, ours: Ours, who: WhoByToken) -> Response:
    """Sets how `/text_generations` answers its caller from now on."""
    check_is_json(request.headers.get("content-type"))
    asked = read_json(await request.body(), LOOSE)  # NaN and 1e999 are values here that have a code of their own
    if not isinstance(asked, dict):
        raise Invalid("the body takes an object")
    if unknown := sorted(asked.keys() - PRESET_BODY["properties"]):  # type: ignore[operator]  # a JSON schema
        raise Invalid(f"{unknown[0][:100]} is not known here", field=unknown[0][:100])
    parameters = {
        "max_length": _checked(asked, "max_length", "E005", "a whole number above 0", lambda n: 0 < n < 2**63, int),
        "temperature": float(
            _checked(asked, "temperature", "E006", "a number above 0, at most 1", lambda n: 0 < n <= 1)
        ),
        "top_p": float(_checked(asked, "top_p", "E007", "a number from 0 to 1", lambda n: 0 <= n <= 1)),
    }
    model = _offer(ours, who).model
    await ours.presets.put(who, SURFACE, parameters)
    return json_answer({"name": model.name, "llm": model.id, **parameters})


async def create_text(call: Call) -> None:
    """Goes on from a prompt, by the caller's own parameters.

    `max_length` counts the prompt's tokens too, which are estimated; a prompt as long as that is given one token more.
    """
    who = by_token(call.services, call.headers.get(b"authorization"))
    body = await call.body(NewPrompt)
    if not body.prompt.strip():
        raise Coded(400, "E004", "Prompt cannot be empty")
    offer = _offer(call.services, who)
    wanted = Wanted(
        kind="text",
        surface=SURFACE,
        input={"prompt": body.prompt, "plain": True},
        text=body.prompt,
        model=offer.model.name,
        parameters=await _parameters(call.services, who, offer, body.prompt),
        key=call.key(),
    )
    generations = call.services.generations
    begun = await generations.begin(who, wanted)
    if begun.live is not None:
        with call.watch():
            await generations.collect(begun)
    _, content = begun.now()
    headers = [*rate_headers(begun.limit), (b"x-loquent-generation", begun.generation.id.encode())]
    if begun.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    await call.reply(msgspec.json.encode(_shown(content)), headers=headers)


CREATE = Direct(
    path="/text_generations",
    handler=create_text,
    body=NewPrompt,
    summary="Go on from a prompt",
    tags=("textgen",),
    answers={"200": "The prompt, and the text that begins with it", "404": "No model goes on from prompts"},
)


@router.get("/text_generations", summary="List one's own")
async def list_texts(ours: Ours, who: WhoByToken) -> Response:
    """What became of one's own prompts, the newest first, whatever surface they came in by."""
    filters = Filters(kind="text", status=COMPLETED)
    return await list_of(ours, who, filters, lambda _, each: _shown(each) if each.input.get("plain") else None)


def dress(error: LoquentError, request_id: str) -> Dressed:
    """An error as the family says it."""
    code = status(error)
    if isinstance(error, Coded):
        said = error.message
    elif isinstance(error, NoToken):
        said = "Not authenticated"
    elif isinstance(error, Unauthenticated):
        said = "[E010] Invalid or expired token"
    else:
        said = f"[{CODES.get(code, CODES[400 if code < 500 else 500])}] {error.message}"
    return code, [(b"content-type", b"application/json"), *about(error)], msgspec.json.encode({"detail": said})


def _checked(asked: dict[str, Any], name: str, code: str, takes: str, fits: Any, kind: Any = int | float) -> Any:
    """The value of that name. Raises the family's error where it does not fit."""
    if name not in asked:
        raise Coded(400, code, f"{name} is missing; it takes {takes}")
    value = asked[name]
    if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
        shown = value if isinstance(value, str) else repr(value)
        raise Coded(400, code, f"{name} takes {takes}, not {shown[:100]}")
    return value


def _offer(services: Services, who: Principal) -> Offer:
    try:
        return services.models.text_offer(who)
    except NotFound:
        raise Coded(404, "E001", "Model configuration not found") from None


async def _parameters(services: Services, who: Principal, offer: Offer, prompt: str) -> Parameters:
    """The caller's own, the prompt's tokens taken off, and the model's context kept to."""
    own = await services.presets.get(who, SURFACE)
    length = min(own.get("max_length", MAX_LENGTH), offer.model.context or LONGEST)
    return Parameters(
        max_tokens=max(1, length - estimate_tokens(prompt)),
        temperature=own.get("temperature"),
        top_p=own.get("top_p"),
    )


def _shown(content: Content) -> dict[str, str]:
    prompt: str = content.input["prompt"]
    return {"prompt": prompt, "generated_text": prompt + content.output}

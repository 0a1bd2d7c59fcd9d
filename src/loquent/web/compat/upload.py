"""The images family's surface: /auth/register, /auth/login, /upload/image and /upload/history.

Errors are ``{"detail": text}``. Nobody is served here without a token, whatever else is allowed; a token of any other
surface will do, and one that is issued here does there. Its ``user_id`` is a text, as all our ids are.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Request, Response, UploadFile
from pydantic import Field

from loquent.domain.clock import SECOND
from loquent.domain.errors import Forbidden, LoquentError, Taken, Unauthenticated
from loquent.domain.generations import COMPLETED, Content, Generation
from loquent.domain.principals import Principal
from loquent.services.history import Filters
from loquent.web import logins
from loquent.web.answers import WholeAnswer, json_answer
from loquent.web.api.images import answer_in
from loquent.web.body import Wire
from loquent.web.deps import Ours, StrictRoute, WhoByToken, check_form
from loquent.web.direct import idempotency_key
from loquent.web.errors import Dressed, Plain, detail
from loquent.web.lists import list_of
from loquent.web.uploads import called, kept

router = APIRouter(tags=["images"], route_class=StrictRoute)
SURFACE = "images"
PREFIXES = ("/auth", "/upload")
UPLOAD = "/upload/image"
MINUTES = 20  # for which a token of this family is good
NO_STORE = [(b"cache-control", b"no-store")]


class NewAccount(Wire):
    """A new account."""

    username: Annotated[str, Field(min_length=1, max_length=64)]
    email: Annotated[str, Field(max_length=254)]
    password: Annotated[str, Field(min_length=8, max_length=1024)]


class Login(Wire):
    """A name and a password."""

    username: Annotated[str, Field(max_length=64)]
    password: Annotated[str, Field(max_length=1024)]


@router.post("/auth/register", status_code=201, summary="Register")
async def create_account(request: Request, ours: Ours, body: NewAccount) -> Response:
    """Make an account, and log in at once."""
    try:
        user = await logins.register(request, ours, body.username, body.password, body.email)
    except Taken as taken:
        raise Plain(400, f"{'Email' if taken.key == 'email' else 'Username'} already registered") from None
    return _token(201, ours.tokens.issue(user, minutes=MINUTES))


@router.post("/auth/login", summary="Log in")
async def create_token(request: Request, ours: Ours, body: Login) -> Response:
    """An access token, good for 20 minutes."""
    try:
        token = await logins.log_in(request, ours, body.username, body.password, minutes=MINUTES)
    except (Unauthenticated, Forbidden):
        raise Plain(400, "Incorrect username or password") from None
    return _token(200, token)


@router.post("/upload/image", summary="Ask what is in an image", dependencies=[Depends(check_form)])
async def create_image(
    request: Request,
    ours: Ours,
    who: WhoByToken,
    file: Annotated[UploadFile, File(description="PNG, JPEG, WebP or GIF")],
) -> Response:
    """It is kept without its metadata, and answered by the deployment's image model."""
    name = called(file)
    async with kept(file) as (path, digest):
        key = idempotency_key(request.headers.get("idempotency-key"), request.scope, digest + name.encode())
        begun = await ours.images.keep_and_ask(who, path, name, surface=SURFACE, key=key)
    return WholeAnswer(ours.generations, begun, lambda *answered: {"status": 200, "result": _shown(who, *answered)})


@router.get("/upload/history", summary="List what was answered")
async def list_answers(ours: Ours, who: WhoByToken) -> Response:
    """What was said of one's own images, the newest first, whatever surface they came in by."""
    filters = Filters(kind="image", status=COMPLETED)
    begins, ends = b'{"status":200,"result":[', b"]}"
    return await list_of(ours, who, filters, lambda *each: _shown(who, *each), begins=begins, ends=ends)


def dress(error: LoquentError, request_id: str) -> Dressed:
    """An error as the family says it."""
    if isinstance(error, Unauthenticated):
        error = Unauthenticated("Could not validate user.")
    return detail(error, request_id)


def _token(status: int, token: str) -> Response:
    result = {"access_token": token, "token_type": "bearer"}
    return json_answer({"status": status, "result": result}, status=status, headers=NO_STORE)


def _shown(who: Principal, generation: Generation, content: Content) -> dict[str, Any]:
    return {
        "user_id": who.owner,
        "username": who.name,
        "image_name": content.input["name"],
        "model_result": answer_in(content),
        "created_at": datetime.fromtimestamp(generation.created_at // SECOND, UTC).strftime("%d/%m/%Y %H:%M:%S"),
    }

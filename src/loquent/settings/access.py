"""Who is let in: how access tokens are signed, and whether anybody needs one."""

from __future__ import annotations

from dataclasses import dataclass

from loquent.domain.kinds import FLAG, SECRET, one_of, setting, whole

GROUP = "Access"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Access:
    """How callers are known."""

    secret: str = setting(
        "",
        SECRET,
        "Signs access tokens. Without one, a random one is made in the data folder.",
        env="LOQUENT_SECRET",
        aliases=("SECRET_KEY", "JWT_SECRET_KEY"),
        group=GROUP,
        secret=True,
        shown_default="made in the data folder",
    )
    algorithm: str = setting(
        "HS256",
        one_of("HS256"),
        "How access tokens are signed.",
        env="LOQUENT_ALGORITHM",
        aliases=("ALGORITHM",),
        group=GROUP,
    )
    token_minutes: int = setting(
        60,
        whole(1, 525_600),
        "Minutes for which an access token is good.",
        env="LOQUENT_TOKEN_MINUTES",
        aliases=("ACCESS_TOKEN_EXPIRE_MINUTES",),
        group=GROUP,
    )
    anonymous: str = setting(
        "auto",
        one_of("auto", "on", "off"),
        "Whether callers without an account are served; auto: only on loopback, and behind no proxy.",
        env="LOQUENT_ANONYMOUS",
        group=GROUP,
    )
    registration: bool = setting(
        True,
        FLAG,
        "Whether people may make accounts for themselves; off: only `loquent users add` makes any.",
        env="LOQUENT_REGISTRATION",
        group=GROUP,
        shown_default="on",
    )
    password_threads: int = setting(
        2, whole(1, 64), "Passwords that are hashed at the same time.", env="LOQUENT_PASSWORD_THREADS", group=GROUP
    )

"""How the server listens: address, processes, bodies, the stop."""

from __future__ import annotations

from dataclasses import dataclass

from loquent.domain.kinds import HOSTS, NETWORKS, TEXT, Networks, number, one_of, setting, whole

GROUP = "Server"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Server:
    """Where it listens, whom it believes, and how it stops."""

    host: str = setting(
        "127.0.0.1", TEXT, "The address to listen on.", env="LOQUENT_HOST", aliases=("HOST",), group=GROUP
    )
    port: int = setting(
        8000, whole(0, 65535), "The port to listen on.", env="LOQUENT_PORT", aliases=("PORT",), group=GROUP
    )
    server: str = setting(
        "granian",
        one_of("granian", "uvicorn"),
        "The HTTP server: granian carries more streams and closes slow clients, uvicorn takes less memory.",
        env="LOQUENT_SERVER",
        group=GROUP,
    )
    workers: int = setting(
        1,
        whole(1, 64),
        "Processes that `loquent serve` answers with, all on its port.",
        env="LOQUENT_WORKERS",
        group=GROUP,
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        HOSTS,
        "Host names that requests may carry. A server on loopback takes only loopback names by default.",
        env="LOQUENT_ALLOWED_HOSTS",
        aliases=("ALLOWED_HOSTS",),
        group=GROUP,
        shown_default="loopback names on loopback, otherwise any",
    )
    trusted_proxies: Networks = setting(
        (),
        NETWORKS,
        "Proxies that are believed when they say, by X-Forwarded-For or Forwarded, from where a request comes.",
        env="LOQUENT_TRUSTED_PROXIES",
        group=GROUP,
        shown_default="none",
    )
    max_body: int = setting(
        1_000_000,
        whole(1_000, 1_000_000_000),
        "Bytes that a JSON or form body may have, without the pictures in it.",
        env="LOQUENT_MAX_BODY",
        group=GROUP,
    )
    max_upload: int = setting(
        20_000_000,
        whole(1_000, 10_000_000_000),
        "Bytes that an uploaded file may have, or a JSON body with pictures in it.",
        env="LOQUENT_MAX_UPLOAD",
        group=GROUP,
    )
    body_seconds: float = setting(
        30.0,
        number(0.05, 3600),
        "Seconds in which a request's body must have come.",
        env="LOQUENT_BODY_SECONDS",
        group=GROUP,
    )
    stop_seconds: float = setting(
        20.0,
        number(0, 3600),
        "Seconds in which a stop lets streams and jobs end.",
        env="LOQUENT_STOP_SECONDS",
        group=GROUP,
    )
    stop_delay: float = setting(
        0.0,
        number(0, 3600),
        "Seconds before that in which all is served as ever but by name not ready, so that a balancer notices; then "
        "connections are refused (docs/how-to/upgrade.md).",
        env="LOQUENT_STOP_DELAY",
        group=GROUP,
    )

    @property
    def has_siblings(self) -> bool:
        """Whether a server process is one of several, which share its port and its output."""
        return self.workers > 1

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in ("localhost", "::1", "[::1]") or self.host.startswith("127.")

    @property
    def host_names(self) -> tuple[str, ...]:
        """Host names that requests may carry; * is any."""
        return self.allowed_hosts or (("localhost", "127.0.0.1", "[::1]", "loquent") if self.is_loopback else ("*",))

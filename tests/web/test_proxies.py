"""Where a request comes from: seen through trusted proxies alone, whatever anybody writes into headers."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from asking import ask, serving
from loquent.domain.principals import UNKNOWN
from loquent.web.proxies import MOST_HOPS, Proxies, normal

pytestmark = pytest.mark.anyio

NETWORKS = tuple(map(ip_network, ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8")))
PEER, CALLER, FORGED = "10.0.0.1", "203.0.113.7", "198.51.100.66"
Header = tuple[str, str]


def caller(*headers: Header, peer: str = PEER) -> str:
    """Who called, by these headers."""
    return Proxies(NETWORKS).caller(peer, [(name.encode(), value.encode("latin-1")) for name, value in headers])


def by(value: str) -> str:
    return caller(("x-forwarded-for", value))


@pytest.mark.parametrize(
    "value",
    [
        CALLER,
        f"{FORGED}, {CALLER}",
        f"{CALLER}, 10.9.9.9",
        f"{FORGED}, {CALLER} , 10.9.9.9,10.8.8.8",
        f"127.0.0.1, 10.1.1.1, {CALLER}",
        f"garbage, {CALLER}",
        f",,{CALLER}",
        f"{'x' * 60_000}, {CALLER}",
        f"{'10.0.0.2,' * 5_000}{CALLER}",
        f"{CALLER}:4711",
        f"::ffff:{CALLER}",
        f"[::ffff:{CALLER}]:80",
        f"{CALLER}, fd00::7",
        f"{CALLER}, [fd00::7]:443, ::ffff:10.0.0.5",
    ],
)
def test_the_first_from_the_right_that_is_no_proxy_of_ours_is_the_caller(value: str) -> None:
    assert by(value) == CALLER
    assert caller(("x-forwarded-for", value), peer=f"::ffff:{PEER}") == CALLER
    for stranger in ("203.0.113.99", "2001:db8::1", "::ffff:203.0.113.99", "", "nonsense"):
        assert caller(("x-forwarded-for", value), peer=stranger) == stranger, "nobody else is believed"


@pytest.mark.parametrize(
    "value",
    ["unknown", "_hidden", "garbage", "1.2.3", "1.2.3.4.5", "999.1.1.1", "localhost", f"{FORGED}, ", f"{FORGED};",
     f"{FORGED}, x, 10.0.0.2", "1.2.3.4:port", "[::1", "\xe9", "0x7f.1", "2130706433", "010.1.1.1 1",
     f"{FORGED}{', 10.0.0.2' * MOST_HOPS}"],
)  # fmt: skip
def test_what_is_no_address_is_nobodys_and_never_the_proxys(value: str) -> None:
    assert by(value) == UNKNOWN


def test_without_a_header_and_where_all_are_proxies_the_farthest_known_is_the_caller() -> None:
    assert caller() == PEER
    assert caller(("x-forwarded-for", "")) == PEER
    assert by("10.0.0.9, 10.0.0.8") == "10.0.0.9"


def test_a_list_in_several_headers_is_one_list() -> None:
    assert caller(("x-forwarded-for", FORGED), ("x-forwarded-for", CALLER)) == CALLER
    assert caller(("x-forwarded-for", f"{FORGED}, {CALLER}"), ("x-forwarded-for", "10.0.0.3")) == CALLER


@pytest.mark.parametrize(
    "value",
    [
        f"for={CALLER}",
        f"for={FORGED}, For={CALLER};proto=https;by=10.0.0.1",
        f'by=10.0.0.1; FOR = "{CALLER}:4711"',
        f"for={CALLER}, for=10.0.0.2",
        f'for="[::ffff:{CALLER}]:1"',
    ],
)
def test_the_standard_header_says_the_same(value: str) -> None:
    assert caller(("forwarded", value)) == CALLER
    assert caller(("forwarded", value), ("x-forwarded-for", CALLER)) == CALLER
    assert caller(("forwarded", value), ("x-forwarded-for", FORGED)) == UNKNOWN, "one of them was sent by the caller"


@pytest.mark.parametrize("value", ["for=unknown", "for=_x", "proto=https", f"for={FORGED};for={CALLER}", "for=", "x"])
def test_the_standard_header_without_an_address_is_nobodys(value: str) -> None:
    assert caller(("forwarded", value)) == UNKNOWN


def test_addresses_have_one_form() -> None:
    for same in (("127.0.0.1", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1"), ("192.0.2.1", "::ffff:192.0.2.1"),
                 ("2001:db8::1", "2001:DB8:0::1"), ("fe80::1", "fe80::1%eth0")):  # fmt: skip
        assert {normal(each) for each in same} == {same[0]}
    assert [normal(each) for each in ("", "testclient", ":", "unix:")] == ["", "testclient", ":", "unix:"]


async def owner(app: object, address: str, *headers: Header) -> str:
    """The anonymous owner that somebody from there is."""
    return str((await ask(app, "GET", "/api/v1/users/me", address=address, headers=headers)).json()["id"])


async def test_owners_go_by_the_address_and_headers_of_strangers_change_nothing(tmp_path: Path) -> None:
    forged = ("x-forwarded-for", "127.0.0.1")
    async with serving(tmp_path, LOQUENT_ANONYMOUS="on") as (app, _):
        at_home = await owner(app, "127.0.0.1")
        assert at_home == await owner(app, "::1") == await owner(app, "127.0.0.1", ("x-forwarded-for", CALLER))
        assert await owner(app, CALLER) == await owner(app, CALLER, forged) != at_home
    proxied = {"LOQUENT_ANONYMOUS": "on", "LOQUENT_TRUSTED_PROXIES": "10.0.0.0/8, ::1"}
    async with serving(tmp_path, **proxied) as (app, _):
        known = await owner(app, CALLER)
        assert known == await owner(app, PEER, ("x-forwarded-for", f"127.0.0.1, {CALLER}"))
        assert known == await owner(app, "::1", ("forwarded", f"for={CALLER}"))
        assert known == await owner(app, CALLER, forged), "who comes past the proxy is who he is"
        told_twice = [("x-forwarded-for", CALLER), ("forwarded", "for=127.0.0.1")]
        answer = await ask(app, "GET", "/api/v1/users/me", address="::1", headers=told_twice)
        assert answer.status == 401, "whoever cannot be told from others is nobody, and has nothing in common with them"


async def test_attempts_to_log_in_are_counted_by_the_caller_and_not_by_the_proxy(tmp_path: Path) -> None:
    environ = {"LOQUENT_TRUSTED_PROXIES": "10.0.0.1", "LOQUENT_LIMIT_LOGINS": "2/minute"}

    async def attempt(number: int, address: str, *headers: Header) -> int:
        form = f"username=nobody{number}&password=wrong".encode()
        media = ("content-type", "application/x-www-form-urlencoded")
        return (await ask(app, "POST", "/token", address=address, headers=[media, *headers], body=form)).status

    async with serving(tmp_path, **environ) as (app, _):
        through = [await attempt(n, PEER, ("x-forwarded-for", f"10.7.7.{n}, {CALLER}")) for n in range(3)]
        assert through == [400, 400, 429], "what he writes himself is not looked at"
        assert await attempt(4, CALLER, ("x-forwarded-for", "192.0.2.1")) == 429, "nor past the proxy"
        assert await attempt(5, PEER, ("x-forwarded-for", "192.0.2.1")) == 400


async def test_behind_a_proxy_loopback_is_nobodys_home_unless_told(tmp_path: Path) -> None:
    async with serving(tmp_path, LOQUENT_TRUSTED_PROXIES="127.0.0.1") as (app, _):
        answer = await ask(app, "GET", "/api/v1/users/me", headers=[("x-forwarded-for", CALLER)])
        assert answer.status == 401


async def test_hosts_are_named_as_django_names_them(tmp_path: Path) -> None:
    async with serving(tmp_path, ALLOWED_HOSTS="['.example.org', 'api.test', '[::1]']") as (app, _):
        for host, status in (
            ("example.org", 200), ("a.b.Example.org:80", 200), ("api.test", 200), ("[::1]:8000", 200),
            ("notexample.org", 421), ("example.org.evil.test", 421), ("x.api.test", 421), ("localhost", 421), ("", 421),
        ):  # fmt: skip
            answer = await ask(app, "GET", "/api/v1/health", headers=[("host", host)], host=False)
            assert answer.status == status, host

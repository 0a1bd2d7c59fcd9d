"""Where a request comes from: the caller's address, seen through proxies that are trusted, and no others.

A proxy adds the address that called it at the right end of X-Forwarded-For, or of Forwarded (RFC 7239); what stands
to the left of it was there before, and anybody may have written it. So the list is read from the right for as long as
the proxies are trusted: the first address that is not one of them is the caller's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from loquent.domain.kinds import Networks
from loquent.domain.principals import UNKNOWN

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MOST_BYTES, MOST_HOPS = 2_048, 20  # of the right end of a header that are looked at
LOOPBACK, IPV6_LOOPBACK = ipaddress.IPv4Network("127.0.0.1"), ipaddress.IPv6Address("::1")
PORTS = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::\d{1,5})?")  # an IPv6 address with a port stands in brackets
FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("?)([^";,\s]+)\1\s*(?=;|$)', re.IGNORECASE)


class Proxies:
    """Finds the caller's address. Only for where some proxy is trusted: otherwise the peer is the caller."""

    def __init__(self, trusted: Networks) -> None:
        home = [LOOPBACK] if any(IPV6_LOOPBACK in network for network in trusted) else []  # see normal
        self._trusted = (*trusted, *home)
        self._trusts: Callable[[str], bool] = lru_cache(maxsize=1_024)(self._is_trusted)

    def caller(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """The address that the request came from first, as far as trusted proxies tell; the peer's where none does.

        UNKNOWN where that is no address, or too far to the left; and where both headers came and do not agree: one of
        them is not the proxy's own, and nobody knows which.
        """
        if not self._trusts(normal(peer)):
            return peer
        told = [(_hops(headers, b"x-forwarded-for"), _plain), (_hops(headers, b"forwarded"), _forwarded)]
        found = {self._walk(hops, read) for hops, read in told if hops}
        return peer if not found else (found.pop() or UNKNOWN) if len(found) == 1 else UNKNOWN

    def _walk(self, hops: list[str], read: Callable[[str], str]) -> str | None:
        """The first from the right that is no trusted proxy; the last of all where each of them is one."""
        address: str | None = None
        for hop in reversed(hops[-MOST_HOPS:]):
            address = _normal_or_none(read(hop))
            if address is None or not self._trusts(address):
                return address
        return address if len(hops) <= MOST_HOPS else None

    def _is_trusted(self, address: str) -> bool:
        try:
            known = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(known in network for network in self._trusted)


def normal(address: str) -> str:
    """An address in the one form that it is compared and kept in: IPv4 as such, and one loopback for both kinds."""
    return address if ":" not in address else _normal_or_none(address) or address


@lru_cache(maxsize=4_096)
def _normal_or_none(text: str) -> str | None:
    try:
        known: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(known, ipaddress.IPv6Address):
        if known == IPV6_LOOPBACK:
            return str(LOOPBACK.network_address)
        known = known.ipv4_mapped or known
    return str(known)


def _hops(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """The entries at the right end of a list that may stand in several headers."""
    whole = b",".join(value for known, value in headers if known == name)
    return whole[-MOST_BYTES:].decode("latin-1").split(",") if whole else []


def _plain(hop: str) -> str:
    """The address in an entry of X-Forwarded-For; an IPv6 one may stand without brackets there."""
    hop = hop.strip()
    if hop.count(":") > 1 and not hop.startswith("["):
        return hop
    found = PORTS.fullmatch(hop)
    return (found[1] or found[2] or "") if found else ""


def _forwarded(hop: str) -> str:
    """The address in an entry of Forwarded; empty for ``unknown``, for a made-up name, and for what is too clever."""
    found = FOR.findall(hop.strip())
    return _plain(found[0][1]) if len(found) == 1 else ""

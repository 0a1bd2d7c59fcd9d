"""Little that unpacks to much, packed without ever being made."""

from __future__ import annotations

import zlib


def packed(part: bytes, times: int) -> bytes:
    """What ``zlib.compress(part * times)`` unpacks to, though not as small: each part is packed for itself, once."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH)
    check = 1
    for _ in range(times):
        check = zlib.adler32(part, check)
    return b"\x78\xda" + block * times + packer.flush() + check.to_bytes(4, "big")

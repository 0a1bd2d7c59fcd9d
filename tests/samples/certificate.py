"""A certificate for 127.0.0.1 and no other name, until 2126, signed by itself and trusted by nobody."""

from __future__ import annotations

import ssl
from pathlib import Path

CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgUiocZKroCRTdD4df
p1k53kmSNb9cEwKvqPVAjEO195ahRANCAASE7Fpjpikr86btN2zTrCeiYOcwsdDM
suImyI6c9/W7+dazy1hhb26jSpEkbh50L+nuPI910GaJYar2idNIuAME
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBljCCATygAwIBAgIUUz7tw9pa6g/Ohrmzmr81J444v0QwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMbG9xdWVudC10ZXN0MCAXDTI2MTEyMjE1NDYyOVoYDzIxMjYx
MDI5MTU0NjI5WjAXMRUwEwYDVQQDDAxsb3F1ZW50LXRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAASE7Fpjpikr86btN2zTrCeiYOcwsdDMsuImyI6c9/W7+daz
y1hhb26jSpEkbh50L+nuPI910GaJYar2idNIuAMEo2QwYjAdBgNVHQ4EFgQUIQBX
i6ZcwDM7QqjH+tikK9Mh2XswHwYDVR0jBBgwFoAUIQBXi6ZcwDM7QqjH+tikK9Mh
2XswDwYDVR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMC
A0gAMEUCIH8wUQH0xIUTlNSv9X8mkHRF60GucdQx6RnNe+ZEbC2hAiEA7gPQRaq4
451NZQPB7Ddan0Mc7zZEuVY+zHKOnKVPFJ0=
-----END CERTIFICATE-----
"""


def listener(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """What a server with this certificate listens with, and the file that says that it may be trusted."""
    path = folder / "certificate.pem"
    path.write_text(CERTIFICATE)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path)
    return tls, path

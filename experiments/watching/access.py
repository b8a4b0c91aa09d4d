"""Who may ask a server of this machine: whoever is on it, and elsewhere who has the token."""

import hmac
import os
import secrets
from urllib.parse import urlsplit

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can reach."""


def new_token(host: str, variable: str = "") -> str:
    """Returns what a server on this host asks for: nothing on one that only this machine can reach; else what an
    environment variable holds, or a new token.

    Raises:
      ValueError: the variable holds less than 16 characters, or others than a header takes.
    """
    if host in LOCAL:
        return ""
    token = os.environ.get(variable, "")
    if token and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise ValueError(f"{variable} holds {len(token)} characters, expected 16 or more, printable ASCII, no spaces.")
    return token or secrets.token_urlsafe(16)


def is_allowed(token: str, given: str, host_header: str) -> bool:
    """Returns whether a request has the token; where there is none, whether it was sent to this machine by name: a name
    that another site has made to mean this machine is not.

    Args:
      token: of the server.
      given: with the request.
      host_header: what it was sent to.
    """
    if token:
        return hmac.compare_digest(given.encode(), token.encode())
    try:
        return urlsplit(f"//{host_header}").hostname in LOCAL
    except ValueError:
        return False

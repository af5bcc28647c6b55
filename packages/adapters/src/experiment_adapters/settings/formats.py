"""How settings are written: each function reads one kind of text, or makes one that does.

All raise `ValueError` of a text that is not of their kind, with what it should be, and without the text.
"""

import math
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from experiment_domain.webhooks.secrets import SECRET_PREFIX

SHORTEST_SECRET_KEY = 32
WEBHOOK_SECRET_BYTES = range(24, 65)


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """Whole numbers in this range."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and lowest <= int(text) <= highest):
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def seconds(lowest: float, highest: float) -> Callable[[str], float]:
    """Numbers of seconds in this range."""

    def parse(text: str) -> float:
        number = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) else math.nan
        if not lowest <= number <= highest:
            raise ValueError(f"must be a number of seconds from {lowest:g} to {highest:g}")
        return number

    return parse


def directory(text: str) -> Path:
    """The absolute path of a directory."""
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("must be an absolute path: a program may be started anywhere")
    return path


def many_seconds(lowest: float, highest: float, most: int) -> Callable[[str], tuple[float, ...]]:
    """Up to `most` numbers of seconds, each in this range, separated by commas."""
    one = seconds(lowest, highest)

    def parse(text: str) -> tuple[float, ...]:
        parts = text.split(",")
        if len(parts) > most:
            raise ValueError(f"must be at most {most} numbers, separated by commas")
        return tuple(one(part.strip()) for part in parts)

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words, in whatever case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text.lower()

    return parse


def truth(text: str) -> bool:
    """Yes or no."""
    if text.lower() not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise ValueError("must be true or false")
    return text.lower() in {"true", "1", "yes", "on"}


def word(text: str) -> str:
    """Printable characters without blanks."""
    if any(char.isspace() or not char.isprintable() for char in text):
        raise ValueError("must not hold blanks or control characters")
    return text


def url(*schemes: str) -> Callable[[str], str]:
    """URLs of these schemes, as they are given."""

    def parse(text: str) -> str:
        word(text)
        try:
            parts = urlsplit(text)
            host, _port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(f"is not a URL: {schemes[0]}://host…") from None
        if parts.scheme not in schemes or not (host or parts.scheme == "unix"):
            raise ValueError(f"is not a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return text

    return parse


def public_url(text: str) -> str:
    """A URL of the web that holds no secret."""
    url("https", "http")(text)
    parts = urlsplit(text)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must be a URL without a user, a password and a fragment")
    return text


def export_url(text: str) -> str:
    """Where exports are kept: a directory, or a bucket of S3."""
    word(text)
    parts = urlsplit(text)
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ValueError("must be a URL without a user, a password, a query and a fragment")
    is_directory = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
    if not is_directory and not (parts.scheme == "s3" and parts.netloc):
        raise ValueError("must be file:///directory or s3://bucket/prefix")
    return text


def brokers(text: str) -> tuple[str, ...]:
    """The brokers of a Kafka, each with its port."""
    addresses = tuple(address.strip() for address in text.split(","))
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host) or not re.fullmatch(r"[0-9]{1,5}", port):
            raise ValueError("must be host:port[,host:port]")
        if not 1 <= int(port) <= 65_535:
            raise ValueError("has a port beyond 65535")
    return addresses


def topic(text: str) -> str:
    """The name of a topic of Kafka."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", text) or text in {".", ".."}:
        raise ValueError("must be the name of a topic: letters, digits, '.', '_' and '-'")
    return text


def options(text: str) -> Mapping[str, str]:
    """Properties by name; what stands behind the first `=` is the value."""
    pairs(text)
    parts = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return {name.strip(): value.strip() for name, _, value in parts}


def proxies(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks."""
    networks: list[IPv4Network | IPv6Network] = []
    for part in text.split(","):
        try:
            network = ip_network(part.strip())
        except ValueError:
            raise ValueError("must be addresses or networks: 10.0.0.7,10.1.0.0/16,fd00::/8") from None
        if network.prefixlen == 0:
            # Whoever is believed may choose the address that limits and the audit log see.
            raise ValueError("must not trust every address")
        networks.append(network)
    return tuple(networks)


def secret_key(text: str) -> bytes:
    """A secret key, long enough not to be guessed."""
    secret = text.encode()
    if len(secret) < SHORTEST_SECRET_KEY:
        raise ValueError(f"must have at least {SHORTEST_SECRET_KEY} characters; `openssl rand -hex 32` makes one")
    return secret


def secret_keys(text: str) -> tuple[bytes, ...]:
    """Secret keys, separated by commas."""
    return tuple(secret_key(part.strip()) for part in text.split(","))


def webhook_secrets(text: str) -> tuple[bytes, ...]:
    """Secrets of Standard Webhooks, decoded."""
    secrets: list[bytes] = []
    for part in text.split(","):
        prefix, encoded = part.strip()[: len(SECRET_PREFIX)], part.strip()[len(SECRET_PREFIX) :]
        try:
            secret = b64decode(encoded, validate=True)
        except ValueError:
            secret = b""
        if prefix != SECRET_PREFIX or len(secret) not in WEBHOOK_SECRET_BYTES:
            raise ValueError(
                f"must be {SECRET_PREFIX} and {WEBHOOK_SECRET_BYTES[0]} to {WEBHOOK_SECRET_BYTES[-1]} bytes in base64,"
                f" several separated by commas; `echo {SECRET_PREFIX}$(openssl rand -base64 32)` makes one"
            ) from None
        secrets.append(secret)
    return tuple(secrets)


def pairs(text: str) -> str:
    """Names and values, as they are given."""
    if not all(re.fullmatch(r"\s*[^\s=,]+\s*=[^,]*", pair) for pair in text.split(",") if pair.strip()):
        raise ValueError("must be name=value[,name=value]")
    return text

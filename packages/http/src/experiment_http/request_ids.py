"""Where a request comes from: its id, taken over or made, and the address it was sent from."""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from experiment_domain.kernel.ids import Ids

_SANE = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def request_id(header: bytes | None, ids: Ids) -> str:
    """The caller's own request id, if it sent one that can stand in a log, or else a new one."""
    return header.decode() if header and _SANE.fullmatch(header) else str(ids.new())


def client_address(
    peer: str | None, forwarded: bytes | None, trusted: Collection[IPv4Network | IPv6Network]
) -> str | None:
    """The address of the client: `peer`, or, where that is a trusted proxy, the last one that is none."""
    if peer is None or not trusted or not forwarded:
        return peer
    address = peer
    for hop in reversed(forwarded.split(b",")):
        if not _is_trusted(address, trusted):
            break
        parsed = _parsed(hop.decode("latin-1").strip())
        if parsed is None:
            break  # what a proxy did not write cannot be told from what its client made up
        address = str(parsed)
    return address


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address: Any = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_trusted(address: str, trusted: Collection[IPv4Network | IPv6Network]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in trusted)

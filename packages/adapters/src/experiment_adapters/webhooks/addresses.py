"""Addresses that webhooks are sent to: those of the public internet, and no others."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_PUBLIC_V6 = IPv6Network("2000::/3")
"""All that was given out for the public internet: what lies beyond is local, embeds another address, or is free."""
_REFUSED_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols, among them Teredo, which embeds IPv4 addresses
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which embeds IPv4 addresses
            "3fff::/20",  # documentation
        ),
    )
)
_REFUSED_V4 = tuple(
    map(
        IPv4Network,
        (
            "168.63.129.16/32",  # a public address by which a cloud's machines reach what is for them alone
            "192.0.0.0/24",  # protocols
            "192.88.99.0/24",  # relays of 6to4
        ),
    )
)


def is_public(text: str) -> bool:
    """Whether an address, as a resolver writes it, is one of the public internet."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return _is_public_v4(address)
    return _is_public_v6(address)


def _is_public_v4(address: IPv4Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in network for network in _REFUSED_V4)


def _is_public_v6(address: IPv6Address) -> bool:
    if address.scope_id is not None or address not in _PUBLIC_V6:
        return False
    return address.is_global and not any(address in network for network in _REFUSED_V6)

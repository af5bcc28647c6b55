"""Who is calling: the bearer token of the Authorization header."""

import re
from collections.abc import Mapping

from experiment_domain.kernel.access import Authenticator, Integration, Principal, SensorToken, System, User
from experiment_domain.kernel.errors import Unauthenticated

_BEARER = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)


async def principal_of(headers: Mapping[bytes, bytes], authenticator: Authenticator) -> Principal:
    """The principal whose token the request carries. Raises `Unauthenticated`."""
    header = headers.get(b"authorization")
    if header is None:
        raise Unauthenticated
    bearer = _BEARER.fullmatch(header)
    if bearer is None:
        raise Unauthenticated("The Authorization header must be: Bearer, a blank, and one token.")
    return await authenticator.authenticate(bearer[1].decode())


def name_of(principal: Principal) -> str:
    """What tells one principal from every other."""
    match principal:
        case User():
            return f"user:{principal.id}"
        case SensorToken():
            return f"sensor:{principal.token_hash.hex()}"
        case Integration() | System():
            return principal.actor

"""Bearer tokens: a sensor's own, or a user's JWT."""

from experiment_adapters.auth.jwt import LONGEST_TOKEN, JwtVerifier
from experiment_domain.kernel.access import Authenticator, Principal, SensorToken
from experiment_domain.kernel.errors import Unauthenticated
from experiment_domain.sensors import TOKEN_PREFIX, token_hash


class BearerTokens(Authenticator):
    """Tells users from sensors by the look of the token; which sensor it is, the repository tells."""

    def __init__(self, verifier: JwtVerifier) -> None:
        self._verifier = verifier

    async def authenticate(self, token: str) -> Principal:
        if not token:
            raise Unauthenticated
        if len(token) > LONGEST_TOKEN:
            raise Unauthenticated("The token is too long.")
        if not token.startswith(TOKEN_PREFIX):
            return await self._verifier.verify(token)
        if not token.isascii() or not token.isprintable() or " " in token:
            raise Unauthenticated("The sensor's token is malformed.")
        return SensorToken(token_hash=token_hash(token))

"""Signatures of other services' callbacks, by Standard Webhooks 1.0: HMAC-SHA256 over id, timestamp and body."""

import hmac
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Self

from attrs import frozen

from experiment_domain.kernel.access import Integration
from experiment_http.bodies import Buffer
from experiment_http.problems import Unsigned
from experiment_http.settings import HttpSettings

ID, TIMESTAMP, SIGNATURE = b"webhook-id", b"webhook-timestamp", b"webhook-signature"
TOLERANCE = timedelta(minutes=5)
"""So far may the sender's clock differ from ours, and so old may a callback be."""
ID_PATTERN = "^[!-\\-/-~]+$"
"""Visible ASCII, but for the full stop: it parts the id from the timestamp in what is signed."""
LONGEST_ID = 255
_ID = re.compile(rb"[!-\-/-~]{1,%d}" % LONGEST_ID)
_SECONDS = re.compile(rb"[0-9]{1,12}")


@frozen(kw_only=True)
class Signatory:
    """A service whose callbacks are signed, and where its secrets are set; any one of them is enough."""

    principal: Integration
    setting: Callable[[HttpSettings], Sequence[bytes]]

    def secrets(self, settings: HttpSettings) -> Sequence[bytes]:
        """Its secrets. Raises `Unsigned` where none is set."""
        secrets = self.setting(settings)
        if not secrets:
            raise Unsigned("Callbacks are not configured here: no secret is set.")
        return secrets


@frozen(kw_only=True)
class SignedEvent:
    """What the headers of a callback say of it."""

    id: bytes
    timestamp: bytes
    signatures: Sequence[bytes]

    @classmethod
    def of(cls, headers: Mapping[bytes, bytes], now: datetime) -> Self:
        """The event of a callback that comes `now`. Raises `Unsigned` where headers are missing, odd or stale."""
        given = {name: headers.get(name, b"") for name in (ID, TIMESTAMP, SIGNATURE)}
        for name, value in given.items():
            # Headers that are sent twice come joined: which of them was meant, nobody can tell.
            if not value or b", " in value:
                raise Unsigned(f"A callback has one {name.decode()} header.")
        if not _ID.fullmatch(given[ID]):
            raise Unsigned(f"webhook-id must have 1 to {LONGEST_ID} visible ASCII characters, and no full stop.")
        if not _SECONDS.fullmatch(given[TIMESTAMP]):
            raise Unsigned("webhook-timestamp must be whole seconds since the Unix epoch.")
        if abs(now.timestamp() - int(given[TIMESTAMP])) > TOLERANCE.total_seconds():
            raise Unsigned(
                f"webhook-timestamp is more than {TOLERANCE.total_seconds():g} seconds from this service's clock."
            )
        entries = (entry.partition(b",") for entry in given[SIGNATURE].split(b" "))
        signatures = [signature for version, _, signature in entries if version == b"v1"]
        return cls(id=given[ID], timestamp=given[TIMESTAMP], signatures=signatures)

    def check(self, body: Buffer, secrets: Sequence[bytes]) -> None:
        """Refuse with `Unsigned` unless one of the signatures was made with one of the secrets, over these bytes."""
        content = b".".join((self.id, self.timestamp, body))
        expected = [b64encode(hmac.digest(secret, content, "sha256")) for secret in secrets]
        # All are compared, each in constant time: how long it takes tells nothing.
        found = [hmac.compare_digest(one, other) for one in expected for other in self.signatures]
        if not any(found):
            raise Unsigned("No signature of this callback fits its id, timestamp and body.")

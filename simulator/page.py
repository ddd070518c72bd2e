"""A Page: what it is called, its token, and whether webhooks are subscribed."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

from simulator.items import ALL_FIELDS


@dataclass(slots=True)
class Page:
    """A Page of the world.

    `dead_token` is the subcode of error 190 that its token gets, None while it works. `subscribed_fields` is None
    while our app is not subscribed.
    """

    number: int
    id: str
    name: str
    seed: int
    renewals: int = 0
    dead_token: int | None = None
    subscribed_fields: set[str] | None = field(default_factory=lambda: set(ALL_FIELDS))

    @property
    def access_token(self) -> str:
        """The Page's token, the newest one."""
        secret = f"token {self.seed} {self.id} {self.renewals}".encode()
        return "EAASim" + blake2b(secret, digest_size=48).hexdigest()

    def kill_token(self, subcode: int = 463) -> None:
        """Let the token stop working: 458 app removed, 460 password changed, 463 expired, 467 invalid, 492 no role."""
        self.dead_token = subcode

    def renew_token(self) -> str:
        """Give out a new token; the one before is invalid from then on."""
        self.renewals += 1
        self.dead_token = None
        return self.access_token

    def is_subscribed(self, name: str) -> bool:
        """Whether webhooks of a field are sent to our app."""
        return self.subscribed_fields is not None and name in self.subscribed_fields

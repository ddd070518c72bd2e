"""Keys of the API: what they let their holders do, how they are made, and which are good now."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import time
from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from sql.api_keys import live_keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sql.pool import Pool

READ_AGAIN_SECONDS = 2.0  # how long a key that was revoked elsewhere may still be good here
BETWEEN_READINGS_SECONDS = 0.1  # however many unknown keys are tried
_KEY = re.compile(rb"mm_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class Role(IntEnum):
    """What a key lets its holder do; each role may do what those before it may."""

    READ = 1  # read what is mirrored, and how the mirror does
    OPERATE = 2  # start and stop what runs, put tags on; read the journal's raw bodies
    ADMIN = 3  # say what is mirrored at all, and who may ask: Pages and their tokens, keys

    @property
    def word(self) -> str:
        """As it is written everywhere else."""
        return self.name.lower()


class Key(NamedTuple):
    """Who asks. The keys of OPS_API_KEY have the ids `ops-1`, `ops-2`."""

    id: str
    role: Role


def new_key() -> tuple[str, str, bytes]:
    """Make a key: its id, itself, and what proves it: of 256 random bits, a plain hash is no help in guessing them."""
    key_id = secrets.token_hex(6)
    key = f"mm_{key_id}_{secrets.token_urlsafe(32)}"
    return key_id, key, sha256(key.encode()).digest()


class KeyRing:
    """Tells whose a key is. Those in the database are read together, at most every so often, whatever is asked."""

    def __init__(
        self,
        pool: Pool,
        ops_keys: Sequence[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._pool, self._clock, self._sleep = pool, clock, sleep
        self._ops = [(Key(f"ops-{n}", Role.ADMIN), sha256(key.encode()).digest()) for n, key in enumerate(ops_keys, 1)]
        self._known: dict[str, tuple[Key, bytes]] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    def find_ops(self, given: bytes) -> Key | None:
        """Find a key of the settings: it needs no database. Each is compared, in constant time."""
        digest = sha256(given).digest()
        found = [key for key, expected in self._ops if hmac.compare_digest(digest, expected)]
        return found[0] if found else None

    async def find(self, given: bytes) -> Key | None:
        """Find any key; None when it is none, or none any more.

        Raises:
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: the database can't be asked.

        """
        ops = self.find_ops(given)
        shape = _KEY.fullmatch(given)
        if ops is not None or shape is None:
            return ops
        key_id, asked_at = shape[1].decode(), self._clock()
        if self._read_at < asked_at - READ_AGAIN_SECONDS:
            await self._read(asked_at - READ_AGAIN_SECONDS)
        if key_id not in self._known:  # it may have been made a moment ago, by another process
            await self._read(asked_at)
        key, expected = self._known.get(key_id, (None, b""))
        return key if hmac.compare_digest(sha256(given).digest(), expected) else None

    async def is_good(self, key: Key) -> bool:
        """Tell whether a key that was found earlier still is one: for who is answered for long.

        Raises:
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: the database can't be asked.

        """
        if any(key == ops for ops, _ in self._ops):
            return True
        not_before = self._clock() - READ_AGAIN_SECONDS
        if self._read_at < not_before:
            await self._read(not_before)
        return key.id in self._known

    def forget(self) -> None:
        """Read the keys again before the next one is looked for: one was made or revoked here."""
        self._read_at = float("-inf")

    async def _read(self, not_before: float) -> None:
        """Read the keys, unless another who waited has done so since."""
        async with self._reading:
            if self._read_at > not_before:
                return
            wait = self._read_at + BETWEEN_READINGS_SECONDS - self._clock()
            if wait > 0:
                await self._sleep(wait)
            began = self._clock()
            async with self._pool.acquire() as connection:
                rows = await live_keys(connection)
            self._known = {row["id"]: (Key(row["id"], Role[row["role"].upper()]), row["digest"]) for row in rows}
            self._read_at = began

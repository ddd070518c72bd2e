"""Erase a person: rows at once, then whatever the journal holds of them, a day after the other."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import asyncpg
import structlog

from app.replay import as_ingest
from app.searching import REDACTED_AT_ONCE, search_day
from app.webhook.redaction import Places, redacted
from sql.deliveries import journal_days
from sql.erasure_journal import (
    Sought,
    claim_stone,
    let_go,
    lock_deliveries,
    note_day,
    note_done,
    put_redacted,
)
from sql.erasures import erase
from sql.errors import Refusal, refusal_of
from sql.refusing import refused_paths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from uuid import UUID

    from sql.erasure_journal import Stone
    from sql.erasures import Erased
    from sql.ingest import Ingest
    from sql.pool import Pool

log = structlog.get_logger(__name__)

EVERY_SECONDS = 60.0
RETRIES = 8


class Done(NamedTuple):
    """What an erasure came to: rows taken out, and bodies of the journal out of which something was."""

    erased: Erased
    deliveries: int


class JournalEraser:
    """Takes erased persons out of the journal. Any number may run: each takes on what no other has."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run_once(self) -> dict[str, int]:
        """See to all that waits; returns how many erasures were finished, and how many bodies changed."""
        finished = changed = 0
        while (stone := await self._claim(None)) is not None:
            changed += await self._rid_journal(stone)
            finished += 1
        if finished:
            log.info("journal_rid_of_erased", erasures=finished, deliveries=changed)
        return {"erasures": finished, "deliveries": changed}

    async def erase(
        self, page_id: str, psid: str, *, before: datetime | None, requested_by: str, now: datetime | None = None
    ) -> Done:
        """Erase a person's conversation with a Page, up to now or another time, and finish before returning.

        Raises:
            OSError, asyncpg.PostgresError: the database went away; what is left of it is done by whoever comes next.

        """
        now = now or datetime.now(UTC)
        erased = await begin_erasure(self._pool, page_id, psid, before=before, requested_by=requested_by, now=now)
        stone = await self._claim((page_id, erased.psid))
        # where another process has taken it on, it goes on without us
        changed = await self._rid_journal(stone, erased.deliveries) if stone is not None else 0
        return Done(erased, changed)

    async def _claim(self, key: tuple[str, str] | None) -> Stone | None:
        async with self._pool.acquire() as connection:
            return await claim_stone(connection, datetime.now(UTC), key)

    async def _rid_journal(self, stone: Stone, known: Sequence[tuple[date, UUID]] = ()) -> int:
        """Look through every day of the journal: a row keeps one delivery, and its message may have come in several."""
        changed = 0
        try:
            for start in range(0, len(known), REDACTED_AT_ONCE):
                changed += await self._redact(known[start : start + REDACTED_AT_ONCE], stone)
            async with self._pool.acquire() as connection:
                days = await journal_days(connection)
            for day in days:
                if stone.journal_day is not None and day <= stone.journal_day:
                    continue
                changed += await self._rid_day(stone, day)
                async with self._pool.acquire() as connection:
                    if not await note_day(connection, stone, day, datetime.now(UTC)):
                        return changed
            async with self._pool.acquire() as connection:
                await note_done(connection, stone, datetime.now(UTC))
        except BaseException:
            async with self._pool.acquire() as connection:
                await let_go(connection, stone)
            raise
        return changed

    async def _rid_day(self, stone: Stone, day: date) -> int:
        sought = Sought(stone.psid, in_edits=stone.page_id)  # an edit may name nobody
        return sum([await self._redact(keys, stone) async for keys in search_day(self._pool, day, sought)])

    async def _redact(self, keys: Sequence[tuple[date, UUID]], stone: Stone) -> int:
        changed = 0
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await lock_deliveries(connection, keys)
            read = await asyncio.to_thread(_read, rows)  # webhooks that come in meanwhile must not wait
            refused = await refused_paths(connection, read)
            for row, delivery, paths in zip(rows, read, refused, strict=True):
                paths |= _unreadable(row, delivery, stone)  # noqa: PLW2901 - one set, made of two
                if paths:
                    left = [letter for letter in row["dead_letters"] or () if letter["path"] not in paths]
                    body = await asyncio.to_thread(redacted, row["body"], paths)
                    await put_redacted(connection, row, body, left)
                    changed += 1
        return changed


async def begin_erasure(
    pool: Pool, page_id: str, psid: str, *, before: datetime | None, requested_by: str, now: datetime
) -> Erased:
    """Take out the rows, and leave the journal to `JournalEraser`: from now on nothing of it comes back.

    Raises:
        OSError, asyncpg.PostgresError: the database went away; nothing is erased.

    """
    for attempt in range(RETRIES):
        try:
            async with pool.acquire() as connection:
                erased = await erase(
                    connection, page_id, psid, erased_before=before or now, requested_by=requested_by, now=now
                )
            break
        except asyncpg.PostgresError as error:  # writers of the same conversation may have been in the way
            if refusal_of(error) is not Refusal.RETRY or attempt == RETRIES - 1:
                raise
            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter, no secret
    log.info("person_erased", page_id=page_id, requested_by=requested_by, messages=erased.messages)
    return erased


def _read(rows: Sequence[asyncpg.Record]) -> list[Ingest]:
    return [as_ingest(row) for row in rows]


def _unreadable(row: asyncpg.Record, delivery: Ingest, stone: Stone) -> set[str]:
    """Items that are not understood, or that Postgres refused, and that hold the person's id.

    When they were sent can't be told, so it goes by when they came; what came later is looked at when it can be read.
    """
    if row["received_at"] >= stone.erased_before:
        return set()
    paths = {letter["path"] for letter in row["dead_letters"] or ()} | {path for path, _ in delivery.dead_letters}
    if not paths:
        return set()
    places = Places(row["body"])
    return {path for path in paths if stone.psid in places.text_at(path)}

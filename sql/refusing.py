"""Take what is refused, as its person was erased, out of the bodies of the deliveries that tell it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import structlog

from sql.deliveries import put_bodies
from sql.erasures import erased_messages, stones_of
from sql.rows import Conversation, Event, Message, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from sql.ingest import Ingest
    from sql.upsert import Connection

    Redact: TypeAlias = Callable[[bytes, Collection[str]], bytes]
    Keys: TypeAlias = Collection[tuple[str, str]]

log = structlog.get_logger(__name__)


def nothing_left(_body: bytes, _paths: Collection[str]) -> bytes:
    """Take out all of a body: for a caller that can't tell its items apart."""
    return b""


async def take_out(connection: Connection, journaled: Sequence[Ingest], redacted: Redact) -> int:
    """Take items of erased persons out of journaled bodies; returns out of how many.

    Must be called in a transaction, once the items' rows are merged. `redacted` takes items, by their paths, out of a
    body.
    """
    refused = await refused_paths(connection, journaled)
    found = [(d, paths) for d, paths in zip(journaled, refused, strict=True) if paths]
    if found:
        # others' webhooks must not wait while a large body is looked through
        bodies = await asyncio.to_thread(lambda: [(d.day, d.id, d.body, redacted(d.body, paths)) for d, paths in found])
        await put_bodies(connection, bodies)
        log.info("erased_items_refused", deliveries=len(found))
    return len(found)


async def refused_paths(connection: Connection, journaled: Sequence[Ingest]) -> list[set[str]]:
    """Which items of each delivery tell of the time before their person was erased."""
    rows = [row for delivery in journaled for item in delivery.items for row in item.rows]
    persons = {
        (r.page_id, r.psid) for r in rows if isinstance(r, Conversation | Message | Event) and r.psid is not None
    }
    about = {(r.page_id, r.mid) for r in rows if isinstance(r, Message | Event) and r.mid is not None}
    stones = await stones_of(connection, persons) if persons else {}
    gone = await erased_messages(connection, about) if about else set()
    return [
        {item.path for item in delivery.items if any(_is_refused(row, stones, gone) for row in item.rows)}
        for delivery in journaled
    ]


def _is_refused(row: Row, stones: Mapping[tuple[str, str], datetime], gone: Keys) -> bool:
    if isinstance(row, Message):
        if (row.page_id, row.mid) in gone:
            return True
        times = [row.sent_at]
    elif isinstance(row, Event):
        if row.psid is None:
            return row.mid is not None and (row.page_id, row.mid) in gone
        times = [row.occurred_at]
    elif isinstance(row, Conversation):
        times = [row.delivered_watermark, row.read_watermark]
    else:
        return False
    before = stones.get((row.page_id, row.psid or ""))
    told = [at for at in times if at is not None]
    return before is not None and bool(told) and max(told) < before

"""What a mirror must be after a play: the truth, in the classes in which it can be known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from app.demo.comparison import Difference, at, compare_conversations, compare_messages
from app.webhook.projection import Door
from app.webhook.reader import read_body
from simulator.body import envelope, escaped
from sql.export import export_conversations, export_messages
from sql.rows import Event

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from app.demo.run import Delivered
    from simulator import Item, World
    from sql.pool import Pool

ANY_DOOR = Door(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC).date(), UUID(int=0))


class Mirror(NamedTuple):
    """A world, the database that mirrors it, and the items that were acknowledged."""

    world: World
    pool: Pool
    delivered: Delivered
    told: list[Item]

    async def rows(self, query: str, *values: object) -> list[asyncpg.Record]:
        async with self.pool.acquire() as connection:
            return await connection.fetch(query, *values)


async def after_a_sync(mirror: Mirror) -> list[str]:
    """What Graph shows and the mirror lacks, or has under another person, time or direction."""
    found: list[str] = []
    for page in mirror.world.pages:
        rows = {row["mid"]: row for row in await mirror.rows(_MESSAGES, page.id)}
        for true in mirror.world.true_messages(page.id):
            if not true.in_graph:
                continue
            row = rows.get(true.mid)
            if row is None:
                found.append(f"{true.mid} is missing")
                continue
            told = mirror.delivered.kinds.get(true.mid, set())
            came_live = bool(told & {"message", "echo", "postback"})
            sent_at = at(true.sent_at_ms if came_live else true.graph_sent_at_ms)
            expected = (true.psid, true.thread_id, true.direction, sent_at, False)
            seen = (row["psid"], row["thread_id"], row["direction"], row["sent_at"], row["is_deleted"])
            if seen != expected:
                found.append(f"{true.mid} is {seen}, not {expected}")
            if not true.num_edit and row["text"] != true.text:
                found.append(f"{true.mid} says {row['text']!r}, not {true.text!r}")
    return found


async def after_an_audit(mirror: Mirror) -> list[str]:
    """Everything else that Graph shows: texts after edits, reactions, attachments; people and their receipts."""
    found: list[Difference] = []
    for page in mirror.world.pages:
        truth = mirror.world.truth(page.id)
        async with mirror.pool.acquire() as connection:
            messages = await export_messages(connection, page.id)
            conversations = await export_conversations(connection, page.id)
        found += compare_messages(page.id, truth.messages, messages, mirror.delivered.kinds)
        found += compare_conversations(page.id, truth.conversations, conversations, mirror.delivered.watermarks)
    return [f"{difference.kind}: {difference.key}: {difference.what}" for difference in found]


async def of_what_was_told(mirror: Mirror) -> list[str]:
    """What only webhooks tell: events, an echo's app, an unsend's time. And rows that contradict themselves."""
    found: list[str] = []
    stored = {tuple(row) for row in await mirror.rows("SELECT page_id, event_key FROM conversation_events")}
    told = {(row.page_id, row.event_key) for row in events_of(mirror.told)}
    found += [f"event {key} is missing" for key in told - stored]
    found += [f"event {key} was never told" for key in stored - told]
    for page in mirror.world.pages:
        rows = {row["mid"]: row for row in await mirror.rows(_MESSAGES, page.id)}
        for true in mirror.world.true_messages(page.id):
            row, kinds = rows.get(true.mid), mirror.delivered.kinds.get(true.mid, set())
            if row is not None and "unsend" in kinds and row["deleted_at"] != at(true.deleted_at_ms or 0):
                found.append(f"{true.mid} was unsent at {row['deleted_at']}")
            app_id = str(true.extra["app_id"]) if "app_id" in true.extra else None
            if row is not None and "echo" in kinds and not true.is_deleted and row["app_id"] != app_id:
                found.append(f"{true.mid} was sent by {row['app_id']}, not {app_id}")
    found += [str(dict(row)) for row in await mirror.rows(_LAST_MESSAGES_THAT_ARE_NOT_THE_NEWEST)]
    found += [str(dict(row)) for row in await mirror.rows(_TOMBSTONES_WITH_CONTENT)]
    found += [str(dict(row)) for row in await mirror.rows("SELECT * FROM webhook_deliveries WHERE state <> 'stored'")]
    return found


def events_of(items: Iterable[Item]) -> list[Event]:
    """The event rows of items."""
    rows = []
    for item in items:
        body = escaped(envelope([item], item.at_ms))
        rows += [row for read in read_body(body, ANY_DOOR).items for row in read.rows if isinstance(row, Event)]
    return rows


_MESSAGES = "SELECT * FROM messages WHERE page_id = $1 AND sent_at IS NOT NULL"
_LAST_MESSAGES_THAT_ARE_NOT_THE_NEWEST = """
    SELECT c.psid, c.last_message_mid, c.last_message_at, newest.mid, newest.sent_at
    FROM conversations AS c
    LEFT JOIN LATERAL (
        SELECT m.mid, m.sent_at, m.direction FROM messages AS m
        WHERE m.page_id = c.page_id AND m.psid = c.psid AND m.sent_at IS NOT NULL
        ORDER BY m.sent_at DESC, m.mid DESC LIMIT 1
    ) AS newest ON true
    WHERE (c.last_message_mid, c.last_message_at, c.last_message_direction)
        IS DISTINCT FROM (newest.mid, newest.sent_at, newest.direction)
"""
_TOMBSTONES_WITH_CONTENT = """
    SELECT m.mid, m.text, m.attachments FROM messages AS m
    WHERE m.is_deleted AND (
        m.text IS NOT NULL OR m.attachments IS NOT NULL
        OR EXISTS (
            SELECT FROM message_reactions AS r WHERE r.page_id = m.page_id AND r.mid = m.mid AND NOT r.is_removed
        )
    )
"""
_DEAD_LETTERS = "SELECT id, dead_letters FROM webhook_deliveries WHERE state <> 'stored'"

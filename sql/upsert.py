"""THE bulk upsert: both doors write conversations, messages, reactions and events through `upsert`, nothing else does.

It runs inside the caller's transaction (READ COMMITTED), one statement per table in a fixed order: threads,
conversations, messages, reactions, events, then the conversations' last message. Postgres refuses to touch a row twice
in a statement, so what repeats a key goes through the same statement once more (`passes`): the rules of merging then
stand in one place, the database's functions, and in no second form here.

Essay: why writers don't deadlock. Whoever writes takes locks in one order: threads by key, conversations by key,
messages by key; every statement's keys are sorted before they are cut into chunks. A thread's lock stands for the
conversation under its id, a message's for its reactions. Only after its messages are merged may a writer learn that
it needs one more of the earlier ones: a message turned out to be another conversation's, or to name the person of a
thread. Such locks are taken without waiting: when one is not free Postgres says 55P03, and the whole group is written
once more.
"""

from __future__ import annotations

from datetime import UTC, datetime
from random import getrandbits
from typing import TYPE_CHECKING, TypeAlias

from sql.batches import CONVERSATIONS_PER_STATEMENT, chunks, columns, first_two, passes
from sql.rekey import rekey, rekey_late
from sql.rows import Conversation, Counts, Rows
from sql.upsert_events import upsert_events
from sql.upsert_messages import upsert_messages
from sql.upsert_reactions import upsert_reactions
from sql.upsert_threads import Moves, Persons, upsert_threads

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from sql.batches import Key
    from sql.rows import Event, Message

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


async def upsert(
    connection: Connection, rows: Rows, *, now: datetime | None = None, expected_since: datetime | None = None
) -> Counts:
    """Merge `rows` into what is stored, and tell how many messages and events were new, changed or left alone.

    Of the new messages, those sent from `expected_since` on count as repaired: a webhook should have brought them.

    Must be called inside a transaction. The result does not depend on the order, repetition or batching of rows.

    Raises:
        asyncpg.PostgresError: as Postgres refused; nothing of the caller's transaction is then stored. What
            `refusal_of` calls RETRY is to be expected beside other writers: write all of it once more.

    """
    now = now or datetime.now(UTC)
    batch = getrandbits(63)
    conversations, messages = rows.conversations, rows.messages
    persons: Persons = {}
    moves: Moves = []
    if rows.threads:
        persons, moves = await upsert_threads(connection, rows.threads, now)
        conversations = [c._replace(psid=persons.get((c.page_id, c.psid), c.psid)) for c in conversations]
        messages = [m._replace(psid=persons.get((m.page_id, m.psid or ""), m.psid)) for m in messages]
    named = _all_conversations(conversations, messages, rows.events, moves)
    await _upsert_conversations(connection, named, now)
    for page_id, thread_id, psid in moves:
        await rekey(connection, page_id, thread_id, psid, now=now)
    counts, touched, learnt = await upsert_messages(connection, messages, batch, now, expected_since)
    touched |= {(page_id, psid) for page_id, _, psid in moves}
    learnt = {told for told in learnt if told[:2] not in persons}
    if learnt:
        touched |= await rekey_late(connection, learnt, now=now)
    if rows.reactions:
        await upsert_reactions(connection, rows.reactions, now)
    if rows.events:
        counts += await upsert_events(connection, rows.events, batch, now)
    not_locked = touched - {c[:2] for c in named}
    if not_locked:
        await _lock_late(connection, not_locked)
    await _derive_last_messages(connection, touched)
    return counts


def _all_conversations(
    conversations: Iterable[Conversation], messages: Iterable[Message], events: Iterable[Event], moves: Moves
) -> list[Conversation]:
    """One row for every conversation that the batch touches; receipts folded, Graph's registers kept apart."""
    folded: dict[Key, Conversation] = {}
    with_graph = []
    for c in conversations:
        if c.graph is not None:
            with_graph.append(c)
            continue
        old = folded.get(c[:2])
        if old is not None:
            c = c._replace(  # noqa: PLW2901
                platform=max(c.platform, old.platform),
                delivered_watermark=_later(c.delivered_watermark, old.delivered_watermark),
                read_watermark=_later(c.read_watermark, old.read_watermark),
            )
        folded[c[:2]] = c
    named = folded.keys() | {c[:2] for c in with_graph}
    others = {(m.page_id, m.psid) for m in messages}
    others.update((e.page_id, e.psid) for e in events)
    others.update((page_id, psid) for page_id, _, psid in moves)
    for page_id, psid in others - named:
        if psid is not None:
            folded[page_id, psid] = Conversation(page_id, psid, "messenger")
    return [*folded.values(), *with_graph]


def _later(a: datetime | None, b: datetime | None) -> datetime | None:
    return max(a, b) if a and b else a or b


async def _upsert_conversations(connection: Connection, rows: list[Conversation], now: datetime) -> None:
    """Create or lock every conversation of the batch, and raise what rises."""
    for chunk in passes(rows, first_two, CONVERSATIONS_PER_STATEMENT):
        await connection.execute(
            """
            INSERT INTO conversations AS c (
                page_id, psid, platform, graph, delivered_watermark, read_watermark, created_at, updated_at
            )
            SELECT n.page_id, n.psid, n.platform, n.graph::jsonb, n.delivered_watermark, n.read_watermark, $7, $7
            FROM unnest(
                $1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[]
            ) AS n (page_id, psid, platform, graph, delivered_watermark, read_watermark)
            ON CONFLICT (page_id, psid) DO UPDATE SET
                platform = GREATEST(c.platform, excluded.platform),
                graph = merge_fields(c.graph, excluded.graph),
                delivered_watermark = GREATEST(c.delivered_watermark, excluded.delivered_watermark),
                read_watermark = GREATEST(c.read_watermark, excluded.read_watermark),
                updated_at = $7
            WHERE excluded.platform > c.platform
            OR excluded.delivered_watermark > COALESCE(c.delivered_watermark, '-infinity')
            OR excluded.read_watermark > COALESCE(c.read_watermark, '-infinity')
            OR (excluded.graph IS NOT NULL AND merge_fields(c.graph, excluded.graph) IS DISTINCT FROM c.graph)
            """,
            *columns(chunk),
            now,
        )


async def _lock_late(connection: Connection, keys: set[tuple[str, str]]) -> None:
    """Lock conversations that messages turned out to belong to, without waiting: see the essay above."""
    await connection.execute(
        """
        SELECT FROM conversations AS c
        JOIN unnest($1::text[], $2::text[]) AS n (page_id, psid) ON c.page_id = n.page_id AND c.psid = n.psid
        FOR NO KEY UPDATE OF c NOWAIT
        """,
        *columns(sorted(keys)),
    )


async def _derive_last_messages(connection: Connection, keys: set[tuple[str, str]]) -> None:
    """Set each conversation's last message afresh: the newest by (sent_at, mid). Their rows are locked by now."""
    for chunk in chunks(sorted(keys), CONVERSATIONS_PER_STATEMENT):
        await connection.execute(
            """
            UPDATE conversations AS c SET
                last_message_mid = l.mid,
                last_message_at = l.sent_at,
                last_message_direction = l.direction,
                snippet = l.snippet
            FROM (
                SELECT n.page_id, n.psid, newest.*
                FROM unnest($1::text[], $2::text[]) AS n (page_id, psid)
                LEFT JOIN LATERAL (
                    SELECT m.mid, m.sent_at, m.direction, left(m.text, 200) AS snippet
                    FROM messages AS m
                    WHERE m.page_id = n.page_id AND m.psid = n.psid AND m.sent_at IS NOT NULL
                    ORDER BY m.sent_at DESC, m.mid DESC
                    LIMIT 1
                ) AS newest ON true
            ) AS l
            WHERE c.page_id = l.page_id AND c.psid = l.psid
            AND (c.last_message_mid, c.last_message_at, c.last_message_direction, c.snippet)
                IS DISTINCT FROM (l.mid, l.sent_at, l.direction, l.snippet)
            """,
            *columns(chunk),
        )

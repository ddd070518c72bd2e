"""THE bulk upsert: both doors write conversations, messages, reactions and events through `upsert`, nothing else does.

It runs inside the caller's transaction (READ COMMITTED), one statement per table in a fixed order: threads,
conversations, messages, reactions, events, then the conversations' last message. Every statement's keys are sorted
before they are cut into chunks, so that two writers lock rows in one order. Postgres refuses to touch a row twice in a
statement, so what repeats a key goes through the same statement once more (`passes`): the rules of merging then stand
in one place, the database's functions, and in no second form here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from random import getrandbits
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sql.rekey import rekey
from sql.rows import Conversation, Counts, Event, Message, Reaction, Rows, Thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import asyncpg

CONVERSATIONS_PER_STATEMENT = 100
ROWS_PER_STATEMENT = 500

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Key: TypeAlias = tuple[str, ...]
Row = TypeVar("Row", bound=tuple[Any, ...])


async def upsert(
    connection: Connection, rows: Rows, *, now: datetime | None = None, expected_since: datetime | None = None
) -> Counts:
    """Merge `rows` into what is stored, and tell how many messages and events were new, changed or left alone.

    Of the new messages, those sent from `expected_since` on count as repaired: a webhook should have brought them.

    Must be called inside a transaction. The result does not depend on the order, repetition or batching of rows.

    Raises:
        asyncpg.PostgresError: as Postgres refused; nothing of the caller's transaction is then stored.

    """
    now = now or datetime.now(UTC)
    batch = getrandbits(63)
    conversations, messages = rows.conversations, rows.messages
    if rows.threads:
        persons = await _upsert_threads(connection, rows.threads, messages, now)
        conversations = [c._replace(psid=persons.get((c.page_id, c.psid), c.psid)) for c in conversations]
        messages = [m._replace(psid=persons.get((m.page_id, m.psid), m.psid)) for m in messages]
    await _upsert_conversations(connection, _all_conversations(conversations, rows, messages), now)
    counts, touched = await _upsert_messages(connection, messages, batch, now, expected_since)
    if rows.reactions:
        await _upsert_reactions(connection, rows.reactions, now)
    if rows.events:
        counts += await _upsert_events(connection, rows.events, batch, now)
    await _derive_last_messages(connection, touched)
    return counts


def passes(rows: Iterable[Row], key: Callable[[Row], Key], size: int) -> Iterator[list[Row]]:
    """Sort rows by key and cut them into chunks of at most `size`, no key twice in a chunk.

    Identical rows are taken once. Rows that repeat a key come in later passes, whose keys are locked already.
    """
    rest = sorted(set(rows), key=key)
    while rest:
        this_pass: list[Row] = []
        next_pass: list[Row] = []
        last: Key | None = None
        for row in rest:
            row_key = key(row)
            (next_pass if row_key == last else this_pass).append(row)
            last = row_key
        for start in range(0, len(this_pass), size):
            yield this_pass[start : start + size]
        rest = next_pass


def _first_two(row: Sequence[Any]) -> Key:
    return (row[0], row[1])


def _first_three(row: Sequence[Any]) -> Key:
    return (row[0], row[1], row[2])


def _columns(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    return zip(*rows, strict=True)


def _all_conversations(
    conversations: Iterable[Conversation], rows: Rows, messages: Iterable[Message]
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
    for m in messages:
        if (m.page_id, m.psid) not in named:
            folded[m.page_id, m.psid] = Conversation(m.page_id, m.psid, "messenger")
    for e in rows.events:
        if e.psid is not None and (e.page_id, e.psid) not in named:
            folded[e.page_id, e.psid] = Conversation(e.page_id, e.psid, "messenger")
    return [*folded.values(), *with_graph]


def _later(a: datetime | None, b: datetime | None) -> datetime | None:
    return max(a, b) if a and b else a or b


async def _upsert_threads(
    connection: Connection, threads: list[Thread], messages: list[Message], now: datetime
) -> dict[tuple[str, str], str]:
    """Find out whose each thread is and lock its row; returns {(page_id, stand-in): psid}."""
    known = {(t.page_id, t.thread_id): t.psid for t in sorted(threads, key=lambda t: (t[0], t[1], t.psid or ""))}
    unknown = [key for key, psid in known.items() if psid is None]
    if unknown:
        mids = [(m.page_id, m.thread_id, m.mid) for m in messages if (m.page_id, m.thread_id) in unknown]
        known.update(await _persons_by_message(connection, mids))
    rows = sorted((page_id, thread_id, psid or thread_id) for (page_id, thread_id), psid in known.items())
    persons: dict[tuple[str, str], str] = {}
    for start in range(0, len(rows), CONVERSATIONS_PER_STATEMENT):
        chunk = rows[start : start + CONVERSATIONS_PER_STATEMENT]
        stored = await connection.fetch(
            """
            INSERT INTO conversation_threads AS t (page_id, thread_id, psid, created_at)
            SELECT n.page_id, n.thread_id, n.psid, $4
            FROM unnest($1::text[], $2::text[], $3::text[]) AS n (page_id, thread_id, psid)
            ON CONFLICT (page_id, thread_id) DO UPDATE SET psid = CASE
                WHEN t.psid = t.thread_id THEN excluded.psid
                ELSE t.psid
            END
            RETURNING t.page_id, t.thread_id, t.psid
            """,
            *_columns(chunk),
            now,
        )
        persons.update({(r["page_id"], r["thread_id"]): r["psid"] for r in stored if r["thread_id"] != r["psid"]})
    for (page_id, thread_id), psid in sorted(persons.items()):
        await rekey(connection, page_id, thread_id, psid, now=now)
    return persons


async def _persons_by_message(
    connection: Connection, mids: list[tuple[str, str | None, str]]
) -> dict[tuple[str, str], str | None]:
    """Whose a thread is, by a stored message of it that names a person."""
    if not mids:
        return {}
    found = await connection.fetch(
        """
        SELECT n.page_id, n.thread_id, max(m.psid) AS psid
        FROM unnest($1::text[], $2::text[], $3::text[]) AS n (page_id, thread_id, mid)
        JOIN messages AS m ON m.page_id = n.page_id AND m.mid = n.mid
        WHERE m.psid <> n.thread_id
        GROUP BY n.page_id, n.thread_id
        """,
        *_columns(mids),
    )
    return {(r["page_id"], r["thread_id"]): r["psid"] for r in found}


async def _upsert_conversations(connection: Connection, rows: list[Conversation], now: datetime) -> None:
    """Create or lock every conversation of the batch, and raise what rises."""
    for chunk in passes(rows, _first_two, CONVERSATIONS_PER_STATEMENT):
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
            *_columns(chunk),
            now,
        )


async def _upsert_messages(
    connection: Connection, rows: list[Message], batch: int, now: datetime, expected_since: datetime | None
) -> tuple[Counts, set[tuple[str, str]]]:
    """Merge messages; returns the counts and the conversations whose last message may have changed."""
    touched: set[tuple[str, str]] = set()
    inserted: set[Key] = set()
    updated: set[Key] = set()
    repaired: set[Key] = set()
    stand_ins: set[Key] = set()
    for chunk in passes(rows, _first_two, ROWS_PER_STATEMENT):
        stored = await connection.fetch(
            """
            INSERT INTO messages AS m (
                page_id, mid, psid, thread_id, direction, sent_at, sent_at_rank, deleted_at, deleted_at_is_estimated,
                original, edits, graph, links, webhook_seen_at, sync_seen_at, delivery_day, delivery_id,
                seen_batch, changed_batch, updated_at
            )
            SELECT
                n.page_id, n.mid, n.psid, n.thread_id, n.direction, n.sent_at, n.sent_at_rank,
                n.deleted_at, n.deleted_at_is_estimated,
                n.original::jsonb, n.edits::jsonb, n.graph::jsonb, n.links::jsonb,
                n.webhook_seen_at, n.sync_seen_at, n.delivery_day, n.delivery_id,
                CASE WHEN n.sent_at IS NOT NULL THEN $18::bigint END, $18, $19
            FROM unnest(
                $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::smallint[],
                $8::timestamptz[], $9::boolean[], $10::text[], $11::text[], $12::text[], $13::text[],
                $14::timestamptz[], $15::timestamptz[], $16::date[], $17::uuid[]
            ) AS n (
                page_id, mid, psid, thread_id, direction, sent_at, sent_at_rank, deleted_at, deleted_at_is_estimated,
                original, edits, graph, links, webhook_seen_at, sync_seen_at, delivery_day, delivery_id
            )
            ON CONFLICT (page_id, mid) DO UPDATE SET (
                psid, thread_id, direction, sent_at, sent_at_rank, deleted_at, deleted_at_is_estimated,
                original, edits, graph, links, webhook_seen_at, sync_seen_at, delivery_day, delivery_id,
                moved_from, seen_batch, changed_batch, updated_at
            ) = (
                SELECT
                    r.psid, r.thread_id, r.direction, r.sent_at, r.sent_at_rank, r.deleted_at,
                    r.deleted_at_is_estimated, r.original, r.edits, r.graph, r.links, r.webhook_seen_at,
                    r.sync_seen_at, r.delivery_day, r.delivery_id, r.moved_from, r.seen_batch, r.changed_batch,
                    r.updated_at
                FROM merge_message(m, excluded) AS r
            )
            WHERE merge_message(m, excluded) IS DISTINCT FROM m
            RETURNING
                m.page_id, m.mid, m.psid, m.moved_from, m.thread_id, m.sent_at,
                m.seen_batch = $18 AS is_inserted, m.changed_batch = $18 AS is_changed,
                m.deleted_at IS NOT NULL AS is_deleted, m.graph ? 'reactions' AS has_snapshot
            """,
            *_columns(chunk),
            batch,
            now,
        )
        emptied: list[tuple[str, str]] = []
        snapshots: list[tuple[str, str]] = []
        for page_id, mid, psid, moved_from, thread_id, sent_at, *flags in stored:
            is_inserted, is_changed, is_deleted, has_snapshot = flags
            if is_changed and sent_at is not None:
                touched.add((page_id, psid))
                if moved_from is not None:
                    touched.add((page_id, moved_from))
                (inserted if is_inserted else updated).add((page_id, mid))
                if is_inserted and expected_since is not None and sent_at >= expected_since:
                    repaired.add((page_id, mid))
            if is_deleted:
                emptied.append((page_id, mid))
            elif has_snapshot:
                snapshots.append((page_id, mid))
            if thread_id is not None and thread_id != psid:
                stand_ins.add((page_id, thread_id, psid))
        if emptied:
            await _delete_reactions(connection, emptied)
        if snapshots:
            await _apply_reaction_snapshots(connection, snapshots, now)
    for page_id, thread_id, psid in await _threads_with_stand_in(connection, stand_ins):
        await rekey(connection, page_id, thread_id, psid, now=now)
        touched.discard((page_id, thread_id))
        touched.add((page_id, psid))
    updated -= inserted
    total = len({_first_two(m) for m in rows if m.sent_at is not None or m.edits or m.deleted_at})
    counts = Counts(len(inserted), len(updated), max(total - len(inserted) - len(updated), 0), len(repaired))
    return counts, touched


async def _threads_with_stand_in(connection: Connection, seen: set[Key]) -> list[Key]:
    """Of messages whose person is known: the threads for which a thread's id still stands in."""
    if not seen:
        return []
    found = await connection.fetch(
        """
        SELECT n.page_id, n.thread_id, max(n.psid) AS psid
        FROM unnest($1::text[], $2::text[], $3::text[]) AS n (page_id, thread_id, psid)
        JOIN conversation_threads AS t ON t.page_id = n.page_id AND t.thread_id = n.thread_id
        WHERE t.psid = t.thread_id
        GROUP BY n.page_id, n.thread_id
        ORDER BY n.page_id, n.thread_id
        """,
        *_columns(sorted(seen)),
    )
    return [(r["page_id"], r["thread_id"], r["psid"]) for r in found]


async def _delete_reactions(connection: Connection, keys: list[tuple[str, str]]) -> None:
    """Take away the reactions of messages that were unsent."""
    await connection.execute(
        """
        DELETE FROM message_reactions AS r
        USING unnest($1::text[], $2::text[]) AS n (page_id, mid)
        WHERE r.page_id = n.page_id AND r.mid = n.mid
        """,
        *_columns(keys),
    )


async def _apply_reaction_snapshots(connection: Connection, keys: list[tuple[str, str]], now: datetime) -> None:
    """Let Graph's list of reactions replace what is older than it.

    The messages' rows are locked by now, so their `reactions_observed_at` stands still.
    """
    await connection.execute(
        """
        DELETE FROM message_reactions AS r
        USING messages AS m, unnest($1::text[], $2::text[]) AS n (page_id, mid)
        WHERE m.page_id = n.page_id AND m.mid = n.mid AND r.page_id = n.page_id AND r.mid = n.mid
        AND (
            r.reacted_at_is_estimated
            OR r.reacted_at < m.reactions_observed_at
            OR (
                r.reacted_at IS NULL
                AND NOT m.graph -> 'reactions' -> 1 @> jsonb_build_array(
                    jsonb_build_array(r.actor, COALESCE(r.reaction, ''), COALESCE(r.emoji, ''))
                )
            )
        )
        """,
        *_columns(keys),
    )
    await connection.execute(
        """
        INSERT INTO message_reactions (page_id, mid, actor, reaction, emoji, is_removed, updated_at)
        SELECT m.page_id, m.mid, s.value ->> 0, NULLIF(s.value ->> 1, ''), NULLIF(s.value ->> 2, ''), false, $3
        FROM unnest($1::text[], $2::text[]) AS n (page_id, mid)
        JOIN messages AS m ON m.page_id = n.page_id AND m.mid = n.mid
        CROSS JOIN LATERAL jsonb_array_elements(m.graph -> 'reactions' -> 1) AS s (value)
        ORDER BY m.page_id, m.mid, s.value ->> 0
        ON CONFLICT (page_id, mid, actor) DO NOTHING
        """,
        *_columns(keys),
        now,
    )


async def _upsert_reactions(connection: Connection, rows: list[Reaction], now: datetime) -> None:
    """Merge reactions: the newest time wins, then the removal, then the greater emoji.

    Nothing is stored on an unsent message, nor below the time at which Graph's own list was read.
    """
    for chunk in passes(rows, _first_three, ROWS_PER_STATEMENT):
        await connection.execute(
            """
            INSERT INTO message_reactions AS r (
                page_id, mid, actor, reaction, emoji, is_removed, reacted_at, reacted_at_is_estimated,
                delivery_day, delivery_id, updated_at
            )
            SELECT n.*, $11
            FROM unnest(
                $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::timestamptz[],
                $8::boolean[], $9::date[], $10::uuid[]
            ) AS n (
                page_id, mid, actor, reaction, emoji, is_removed, reacted_at, reacted_at_is_estimated,
                delivery_day, delivery_id
            )
            JOIN messages AS m ON m.page_id = n.page_id AND m.mid = n.mid
            WHERE m.deleted_at IS NULL
            AND (
                m.reactions_observed_at IS NULL
                OR (NOT n.reacted_at_is_estimated AND n.reacted_at >= m.reactions_observed_at)
            )
            ORDER BY n.page_id, n.mid, n.actor
            ON CONFLICT (page_id, mid, actor) DO UPDATE SET
                reaction = excluded.reaction,
                emoji = excluded.emoji,
                is_removed = excluded.is_removed,
                reacted_at = excluded.reacted_at,
                reacted_at_is_estimated = excluded.reacted_at_is_estimated,
                delivery_day = excluded.delivery_day,
                delivery_id = excluded.delivery_id,
                updated_at = excluded.updated_at
            WHERE r.reacted_at IS NULL OR (
                event_clock(excluded.reacted_at, excluded.reacted_at_is_estimated), excluded.is_removed,
                COALESCE(excluded.emoji, '') COLLATE "C", COALESCE(excluded.reaction, '') COLLATE "C"
            ) > (
                event_clock(r.reacted_at, r.reacted_at_is_estimated), r.is_removed,
                COALESCE(r.emoji, '') COLLATE "C", COALESCE(r.reaction, '') COLLATE "C"
            )
            """,
            *_columns(chunk),
            now,
        )


async def _upsert_events(connection: Connection, rows: list[Event], batch: int, now: datetime) -> Counts:
    """Merge events: field by field, present beats absent, ties by the greater value."""
    inserted: set[Key] = set()
    updated: set[Key] = set()
    for chunk in passes(rows, _first_two, ROWS_PER_STATEMENT):
        stored = await connection.fetch(
            """
            INSERT INTO conversation_events AS e (
                page_id, event_key, psid, kind, via, mid, occurred_at, occurred_at_is_estimated, payload,
                received_at, delivery_day, delivery_id, seen_batch, updated_at
            )
            SELECT
                n.page_id, n.event_key, n.psid, n.kind, n.via, n.mid, n.occurred_at, n.is_estimated, n.payload::jsonb,
                n.received_at, n.delivery_day, n.delivery_id, $13, $14
            FROM unnest(
                $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                $8::boolean[], $9::text[], $10::timestamptz[], $11::date[], $12::uuid[]
            ) AS n (
                page_id, event_key, psid, kind, via, mid, occurred_at, is_estimated, payload,
                received_at, delivery_day, delivery_id
            )
            ON CONFLICT (page_id, event_key) DO UPDATE SET
                psid = GREATEST(e.psid, excluded.psid),
                kind = LEAST(e.kind, excluded.kind),
                via = LEAST(e.via, excluded.via),
                mid = GREATEST(e.mid, excluded.mid),
                occurred_at = CASE
                    WHEN (excluded.occurred_at_is_estimated, excluded.occurred_at)
                        < (e.occurred_at_is_estimated, e.occurred_at) THEN excluded.occurred_at
                    ELSE e.occurred_at
                END,
                occurred_at_is_estimated = e.occurred_at_is_estimated AND excluded.occurred_at_is_estimated,
                payload = merge_fields(e.payload, excluded.payload),
                updated_at = excluded.updated_at
            WHERE (GREATEST(e.psid, excluded.psid), LEAST(e.kind, excluded.kind), LEAST(e.via, excluded.via))
                IS DISTINCT FROM (e.psid, e.kind, e.via)
            OR GREATEST(e.mid, excluded.mid) IS DISTINCT FROM e.mid
            OR (excluded.occurred_at_is_estimated, excluded.occurred_at) < (e.occurred_at_is_estimated, e.occurred_at)
            OR merge_fields(e.payload, excluded.payload) IS DISTINCT FROM e.payload
            RETURNING e.page_id, e.event_key, e.seen_batch = $13 AS is_inserted
            """,
            *_columns(chunk),
            batch,
            now,
        )
        for page_id, event_key, is_inserted in stored:
            (inserted if is_inserted else updated).add((page_id, event_key))
    updated -= inserted
    total = len({_first_two(e) for e in rows})
    return Counts(len(inserted), len(updated), total - len(inserted) - len(updated))


async def _derive_last_messages(connection: Connection, keys: set[tuple[str, str]]) -> None:
    """Set each conversation's last message afresh: the newest by (sent_at, mid). Their rows are locked by now."""
    ordered = sorted(keys)
    for start in range(0, len(ordered), CONVERSATIONS_PER_STATEMENT):
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
            *_columns(ordered[start : start + CONVERSATIONS_PER_STATEMENT]),
        )

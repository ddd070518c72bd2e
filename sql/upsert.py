"""THE bulk upsert: both doors write conversations, messages, reactions and events through `upsert`, nothing else does.

It runs inside the caller's transaction (READ COMMITTED), one statement per table in a fixed order: threads,
conversations, messages, reactions, events, then the conversations' last message. Postgres refuses to touch a row twice
in a statement, so what repeats a key goes through the same statement once more (`passes`). The statements are functions
of the database, one a table, and so are the rules of merging: they stand in one place, and in no second form here.
Each tells which keys read differently now, and those are noted in the feed of changes, in the same transaction.

`ingest` takes the same steps in one call. Between two calls a client's locks are held and its session waits for it:
with a call a statement, that was more than half of a webhook's way under load.

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

import asyncpg

from sql.batches import CONVERSATIONS_PER_STATEMENT, ROWS_PER_STATEMENT, columns, first_three, first_two, numbered
from sql.changes import Change, note_changes
from sql.deliveries import journal_deliveries
from sql.erasures import carry_over, enforce, erased_among, refuse_events_about_erased
from sql.errors import TellsOfErased
from sql.rekey import rekey, rekey_late
from sql.rows import Conversation, Counts, Rows
from sql.upsert_events import count_events, upsert_events
from sql.upsert_messages import count_messages, message_chunks, upsert_messages
from sql.upsert_reactions import upsert_reactions
from sql.upsert_threads import Moves, Persons, upsert_threads

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sql.batches import Key
    from sql.rows import Delivery, Event, Message

# raised by the database's function `ingest`
NEEDS_LATE_LOCKS = "MM001"
TELLS_OF_ERASED = "MM002"

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


async def upsert(connection: Connection, rows: Rows, *, now: datetime | None = None) -> Counts:
    """Merge `rows` into what is stored, and tell how many messages and events were new, changed or left alone.

    What was sent before its person was erased is not stored, and counts as nothing.

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
        persons, moves, erased_threads = await upsert_threads(connection, rows.threads, now)
        conversations = [c._replace(psid=persons.get((c.page_id, c.psid), c.psid)) for c in conversations]
        messages = [m._replace(psid=persons.get((m.page_id, m.psid or ""), m.psid)) for m in messages]
        if erased_threads:
            await carry_over(connection, erased_threads)
    named = _all_conversations(conversations, messages, rows.events, moves)
    erased, changed = await _upsert_conversations(connection, named, now) if named else (set(), [])
    for page_id, thread_id, psid in moves:
        await rekey(connection, page_id, thread_id, psid, now=now)
    counts, touched = Counts(), {(page_id, psid) for page_id, _, psid in moves}
    learnt: set[tuple[str, str, str]] = set()
    if messages:
        merged = await upsert_messages(connection, messages, batch, now)
        counts = merged.counts
        touched |= merged.touched
        learnt = {told for told in merged.learnt if told[:2] not in persons}
    if learnt:
        moved = await rekey_late(connection, learnt, now=now)
        touched |= moved
        erased |= await erased_among(connection, moved) if moved else set()
    if rows.reactions:
        await upsert_reactions(connection, rows.reactions, now)
    if rows.events:
        counts += await upsert_events(connection, rows.events, batch, now)
    not_locked = touched - {c[:2] for c in named}
    if not_locked:
        await _lock_late(connection, not_locked)
        erased |= await erased_among(connection, not_locked)
    if erased:
        counts -= await enforce(connection, erased, batch=batch, now=now)
    about = {(e.page_id, e.mid) for e in rows.events if e.psid is None and e.mid is not None}
    if about:
        counts -= await refuse_events_about_erased(connection, about, batch=batch)
    await _derive_last_messages(connection, touched - erased, now, changed)
    return counts


async def ingest(
    connection: Connection, deliveries: Sequence[Delivery], rows: Rows, *, now: datetime | None = None
) -> Counts:
    """Journal deliveries and merge their rows, durably, in one round trip.

    A transaction of its own: must not be called inside another. As `upsert` otherwise, for rows that name no threads.

    Raises:
        TellsOfErased: some of it may have to be refused, and to be taken out of the deliveries too; nothing is stored.
        asyncpg.PostgresError: as Postgres refused; nothing is then stored.

    """
    now = now or datetime.now(UTC)
    named = _all_conversations(rows.conversations, rows.messages, rows.events, [])
    try:
        [(inserted, updated)] = await connection.fetch(
            """
            SELECT * FROM ingest(
                $1::delivery_row[], $2::conversation_row[], $3::message_row[], $4::reaction_row[], $5::event_row[],
                $6, $7
            )
            """,
            sorted(deliveries, key=first_two),  # writers of the same deliveries must meet in one order
            numbered(named, first_two, CONVERSATIONS_PER_STATEMENT),
            message_chunks(rows.messages),
            numbered(rows.reactions, first_three, ROWS_PER_STATEMENT),
            numbered(rows.events, first_two, ROWS_PER_STATEMENT),
            getrandbits(63),
            now,
        )
    except asyncpg.PostgresError as error:
        if error.sqlstate == TELLS_OF_ERASED:
            raise TellsOfErased from None
        if error.sqlstate != NEEDS_LATE_LOCKS:
            raise
        async with connection.transaction():
            await journal_deliveries(connection, deliveries)
            return await upsert(connection, rows, now=now)
    total = count_messages(rows.messages) + count_events(rows.events)
    return Counts(inserted, updated, max(total - inserted - updated, 0))


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
                platform=min(c.platform, old.platform),
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


async def _upsert_conversations(
    connection: Connection, rows: list[Conversation], now: datetime
) -> tuple[set[tuple[str, str]], list[Change]]:
    """Create or lock every conversation of the batch, and raise what rises.

    Returns those of erased persons, and the changes.
    """
    [(changed, erased)] = await connection.fetch(
        "SELECT upsert_conversations($1::conversation_row[], $2), erased_among($3::conversation_key[])",
        numbered(rows, first_two, CONVERSATIONS_PER_STATEMENT),
        now,
        [row[:2] for row in rows],
    )
    return {(page_id, psid) for page_id, psid in erased or ()}, [Change(*row) for row in changed or ()]


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


async def _derive_last_messages(
    connection: Connection, keys: set[tuple[str, str]], now: datetime, changed: list[Change]
) -> None:
    """Set each conversation's last message afresh: the newest by (sent_at, mid). Their rows are locked by now.

    Notes those that change, with what `changed` before.
    """
    if not keys:
        if changed:
            await note_changes(connection, changed)
        return
    await connection.execute(
        "SELECT note_changes($3::change_row[] || derive_last_messages($1::conversation_key[], $2))",
        sorted(keys),
        now,
        changed,
    )

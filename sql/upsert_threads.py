"""Whose a thread is: `conversation_threads`, written before anything else of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from sql.batches import CONVERSATIONS_PER_STATEMENT, chunks, columns

if TYPE_CHECKING:
    from datetime import datetime

    from sql.rows import Thread
    from sql.upsert import Connection

Persons: TypeAlias = dict[tuple[str, str], str]  # {(page_id, thread_id): psid}
Moves: TypeAlias = list[tuple[str, str, str]]  # (page_id, thread_id, psid)


async def upsert_threads(connection: Connection, threads: list[Thread], now: datetime) -> tuple[Persons, Moves, Moves]:
    """Store whose each thread is, as far as it was told, and lock its row.

    Returns the persons that are known, which of their conversations still stand under the thread's id, and which were
    erased under it.
    """
    told: dict[tuple[str, str], str | None] = {}
    for page_id, thread_id, psid in threads:
        known = told.get((page_id, thread_id))
        told[page_id, thread_id] = max(known, psid) if known and psid else known or psid
    rows = sorted((page_id, thread_id, psid or thread_id) for (page_id, thread_id), psid in told.items())
    persons: Persons = {}
    moves: Moves = []
    erased: Moves = []
    for chunk in chunks(rows, CONVERSATIONS_PER_STATEMENT):
        await connection.execute(
            """
            INSERT INTO conversation_threads AS t (page_id, thread_id, psid, created_at)
            SELECT n.page_id, n.thread_id, n.psid, $4
            FROM unnest($1::text[], $2::text[], $3::text[]) AS n (page_id, thread_id, psid)
            ON CONFLICT (page_id, thread_id) DO UPDATE SET psid = excluded.psid
            WHERE excluded.psid <> excluded.thread_id AND (t.psid = t.thread_id OR excluded.psid > t.psid)
            """,
            *columns(chunk),
            now,
        )
        page_ids, thread_ids, _ = columns(chunk)
        stored = await connection.fetch(
            """
            SELECT
                t.page_id, t.thread_id, t.psid, c.psid IS NOT NULL AS has_stand_in,
                EXISTS (SELECT FROM erasures AS e WHERE e.page_id = t.page_id AND e.psid = t.thread_id) AS is_erased
            FROM unnest($1::text[], $2::text[]) AS n (page_id, thread_id)
            JOIN conversation_threads AS t ON t.page_id = n.page_id AND t.thread_id = n.thread_id
            LEFT JOIN conversations AS c ON c.page_id = t.page_id AND c.psid = t.thread_id
            WHERE t.psid <> t.thread_id
            ORDER BY t.page_id, t.thread_id
            """,
            page_ids,
            thread_ids,
        )
        for page_id, thread_id, psid, has_stand_in, is_erased in stored:
            persons[page_id, thread_id] = psid
            if has_stand_in:
                moves.append((page_id, thread_id, psid))
            if is_erased:
                erased.append((page_id, thread_id, psid))
    return persons, moves, erased

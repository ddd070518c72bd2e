"""What Facebook asks for by its callbacks: `facebook_requests`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    import asyncpg

    from sql.upsert import Connection


class FacebookRequest(NamedTuple):
    """A request that somebody has to see to. `user_id` is the person's for our app."""

    code: str
    kind: str
    user_id: str | None
    page_id: str | None
    received_at: datetime


async def put_request(
    connection: Connection,
    code: str,
    digest: bytes,
    *,
    kind: str,
    user_id: str | None,
    page_id: str | None,
    now: datetime,
) -> str:
    """Record a request; returns its code, which is an earlier one's where the same comes again by the same callback."""
    await connection.execute(
        """
        INSERT INTO facebook_requests (code, digest, kind, user_id, page_id, received_at, next_try_at)
        VALUES ($1, $2, $3, $4, $5, $6, $6)
        ON CONFLICT (digest, kind) DO NOTHING
        """,
        code,
        digest,
        kind,
        user_id,
        page_id,
        now,
    )
    return str(
        await connection.fetchval("SELECT code FROM facebook_requests WHERE digest = $1 AND kind = $2", digest, kind)
    )


async def claim_request(connection: Connection, now: datetime, *, again_after: timedelta) -> FacebookRequest | None:
    """Take on the request that waits the longest; nobody else does before `again_after`."""
    row = await connection.fetchrow(
        """
        UPDATE facebook_requests AS r SET next_try_at = $2
        WHERE r.code = (
            SELECT o.code FROM facebook_requests AS o
            WHERE o.state = 'received' AND o.next_try_at <= $1
            ORDER BY o.next_try_at, o.code LIMIT 1
            FOR UPDATE SKIP LOCKED
        )
        RETURNING r.code, r.kind, r.user_id, r.page_id, r.received_at
        """,
        now,
        now + again_after,
    )
    return FacebookRequest(*row) if row else None


async def note_outcome(connection: Connection, code: str, outcome: str) -> None:
    """Say what became of a request that is tried again later."""
    await connection.execute("UPDATE facebook_requests SET outcome = $2 WHERE code = $1", code, outcome)


async def finish_request(
    connection: Connection,
    code: str,
    *,
    state: str,
    outcome: str,
    persons: Sequence[tuple[str, str]] = (),
    now: datetime,
) -> None:
    """End a request. Who asked is forgotten, unless its owner still has to find out what is meant."""
    await connection.execute(
        """
        UPDATE facebook_requests SET
            state = $2, outcome = $3, persons = $4::jsonb, finished_at = $5,
            user_id = CASE WHEN $2 = 'unmatched' THEN user_id END
        WHERE code = $1
        """,
        code,
        state,
        outcome,
        [list(person) for person in persons],
        now,
    )


async def show_request(connection: Connection, code: str) -> asyncpg.Record | None:
    """How far a request is, for whoever has its code: also whether the journal is rid of the persons, too."""
    return await connection.fetchrow(
        """
        SELECT
            r.kind, r.state, r.received_at, r.finished_at, jsonb_array_length(r.persons) AS persons,
            NOT EXISTS (
                SELECT FROM jsonb_array_elements(r.persons) AS p (value)
                JOIN erasures AS e ON e.page_id = p.value ->> 0 AND e.psid = p.value ->> 1
                WHERE e.journal_done_at IS NULL
            ) AS is_complete
        FROM facebook_requests AS r WHERE r.code = $1
        """,
        code,
    )


async def list_requests(
    connection: Connection, *, limit: int, before: tuple[datetime, str] | None = None
) -> list[asyncpg.Record]:
    """Requests, newest first, from just before (received_at, code)."""
    return await connection.fetch(
        f"""
        SELECT
            r.code, r.kind, r.user_id, r.page_id, r.received_at, r.state, r.outcome, r.finished_at,
            jsonb_array_length(r.persons) AS persons
        FROM facebook_requests AS r
        {"WHERE (r.received_at, r.code) < ($2, $3)" if before else ""}
        ORDER BY r.received_at DESC, r.code DESC LIMIT $1
        """,
        limit,
        *(before or ()),
    )


async def conversations_of(connection: Connection, psid: str) -> list[tuple[str, str]]:
    """The conversations, (page_id, psid), of a person's id on any Page: one look-up a Page."""
    rows = await connection.fetch(
        """
        SELECT c.page_id, c.psid FROM facebook_pages AS p
        CROSS JOIN LATERAL (
            SELECT o.page_id, o.psid FROM conversations AS o WHERE o.page_id = p.page_id AND o.psid = $1 OFFSET 0
        ) AS c
        ORDER BY c.page_id
        """,
        psid,
    )
    return [(row["page_id"], row["psid"]) for row in rows]

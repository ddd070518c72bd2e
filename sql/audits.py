"""Audits as runs: what each found, how much of a Page is verified, and when the next one is due."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sql.upsert import Connection

COVERAGE_DAYS = 7
NIGHT = timedelta(hours=6)  # from midnight UTC on: each Page's audit begins at its own moment of it
SMALLEST_BUDGET = 10
UNKNOWN_BUDGET = 100  # calls a night while Meta's headers have not told what the Page is good for


class Findings(NamedTuple):
    """What a step of an audit found."""

    conversations_verified: int = 0
    conversations_repaired: int = 0
    conversations_unverifiable: int = 0
    messages_restored: int = 0
    messages_changed: int = 0
    messages_missing: int = 0


async def add_findings(connection: Connection, run_id: int, found: Findings) -> None:
    """Add what a step found to the run's. Must be called in the step's transaction."""
    await connection.execute(
        """
        UPDATE sync_runs AS r SET audit = COALESCE(r.audit, '{}') || (
            SELECT jsonb_object_agg(n.name, COALESCE((r.audit ->> n.name)::integer, 0) + n.more)
            FROM unnest($2::text[], $3::integer[]) AS n (name, more)
        )
        WHERE r.id = $1
        """,
        run_id,
        list(found._fields),
        list(found),
    )


class Coverage(NamedTuple):
    """How much of a Page is verified.

    `verified` of its `conversations` were compared whole within the last `coverage_days`; of `unverifiable` ones Graph
    refuses details; `never_audited` ones were never compared. `oldest_audited_at` is when that one was which it is
    longest ago for. `missing_in_graph` messages are ours that Graph lists no more.
    """

    conversations: int = 0
    verified: int = 0
    unverifiable: int = 0
    never_audited: int = 0
    oldest_audited_at: datetime | None = None
    missing_in_graph: int = 0

    @property
    def share(self) -> float | None:
        """The share that is verified; None when there is nothing to verify."""
        return round(self.verified / self.conversations, 4) if self.conversations else None

    def shown(self) -> dict[str, Any]:
        """As readers see it."""
        return {**self._asdict(), "coverage": self.share, "coverage_days": COVERAGE_DAYS}


async def coverage_of(connection: Connection, page_ids: Sequence[str]) -> dict[str, Coverage]:
    """How much of each of these Pages is verified. A conversation of several threads is when all of them are."""
    rows = await connection.fetch(
        """
        WITH t AS (
            SELECT
                t.page_id, t.psid,
                bool_and(
                    t.audited_at IS NOT NULL AND t.audited_at > now() - $2 * interval '1 day'
                    AND t.audit_state IN ('verified', 'repaired')
                ) AS is_verified,
                bool_or(t.audit_state = 'unverifiable') AS is_unverifiable,
                bool_or(t.audited_at IS NULL) AS is_new,
                min(t.audited_at) AS audited_at
            FROM conversation_threads AS t WHERE t.page_id = ANY($1::text[])
            GROUP BY t.page_id, t.psid
        ),
        c AS (
            SELECT
                c.page_id,
                count(*) AS conversations,
                count(*) FILTER (WHERE t.is_verified) AS verified,
                count(*) FILTER (WHERE t.is_unverifiable) AS unverifiable,
                count(*) FILTER (WHERE COALESCE(t.is_new, true)) AS never_audited,
                min(t.audited_at) AS oldest_audited_at
            FROM conversations AS c LEFT JOIN t ON t.page_id = c.page_id AND t.psid = c.psid
            WHERE c.page_id = ANY($1::text[]) AND c.platform = 'messenger' AND c.last_message_at IS NOT NULL
            GROUP BY c.page_id
        ),
        m AS (
            SELECT m.page_id, count(*) AS missing FROM messages AS m
            WHERE m.page_id = ANY($1::text[]) AND m.absent_since IS NOT NULL AND m.missing_in_graph_since IS NOT NULL
            GROUP BY m.page_id
        )
        SELECT c.*, COALESCE(m.missing, 0) AS missing FROM c LEFT JOIN m ON m.page_id = c.page_id
        """,
        list(page_ids),
        COVERAGE_DAYS,
    )
    found = {page_id: Coverage(*of_page) for page_id, *of_page in rows}
    return {page_id: found.get(page_id, Coverage()) for page_id in page_ids}


async def put_coverage(connection: Connection, page_id: str, run_id: int) -> None:
    """Record how much of the Page is verified as an audit ends. Must be called in a transaction."""
    coverage = (await coverage_of(connection, [page_id]))[page_id]
    await add_findings(connection, run_id, Findings())
    await connection.execute(
        """
        UPDATE sync_runs SET audit = audit || jsonb_build_object(
            'coverage', $2::double precision,
            'coverage_days', $3::integer,
            'oldest_audited_at', to_char($4::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        )
        WHERE id = $1
        """,
        run_id,
        coverage.share,
        COVERAGE_DAYS,
        coverage.oldest_audited_at,
    )


async def last_list_place(connection: Connection, page_id: str, run_id: int) -> dict[str, Any] | None:
    """Where the list stood when the Page's last audit used up its calls; None when that came to the list's end."""
    row = await connection.fetchrow(
        """
        SELECT checkpoint -> 'list' AS place FROM sync_runs
        WHERE page_id = $1 AND id < $2 AND kind = 'audit' AND state = 'succeeded'
        ORDER BY id DESC LIMIT 1
        """,
        page_id,
        run_id,
    )
    place: dict[str, Any] | None = row["place"] if row else None
    return place if place and not place["is_done"] and place["cursor"] is not None else None


async def enqueue_audits(connection: Connection, *, share: float) -> int:
    """Queue a rolling audit for each Page whose moment of the night has come; returns how many were queued.

    An audit may make `share` of the Page's daily calls, a few where these are not known. The nights are in UTC, and a
    Page's moment is the same every night. Nights that passed while nobody worked are left out.
    """
    return int(
        await connection.fetchval(
            """
            WITH due AS (
                SELECT p.page_id, p.next_audit_at, p.daily_call_budget FROM facebook_pages AS p
                WHERE p.state = 'active' AND (p.next_audit_at IS NULL OR p.next_audit_at <= now())
                ORDER BY p.page_id
                FOR NO KEY UPDATE SKIP LOCKED
            ),
            tonight AS (
                SELECT
                    d.page_id,
                    date_trunc('day', now(), 'UTC')
                    + ('x' || left(md5(d.page_id), 7))::bit(28)::integer * ($2::interval / (1 << 28)) AS at
                FROM due AS d
            ),
            moved AS (
                UPDATE facebook_pages AS p
                SET next_audit_at = CASE WHEN t.at > now() THEN t.at ELSE t.at + interval '24 hours' END
                FROM tonight AS t WHERE p.page_id = t.page_id
            ),
            queued AS (
                INSERT INTO sync_runs (page_id, kind, requested_by, call_budget)
                SELECT
                    d.page_id, 'audit', 'schedule',
                    CASE
                        WHEN d.daily_call_budget IS NULL THEN $4
                        ELSE GREATEST((d.daily_call_budget * $1::double precision)::integer, $3)
                    END
                FROM due AS d
                WHERE d.next_audit_at > now() - $2::interval
                AND NOT EXISTS (
                    SELECT FROM sync_runs AS r
                    WHERE r.page_id = d.page_id AND r.kind = 'audit' AND r.state IN ('queued', 'running')
                )
                ON CONFLICT DO NOTHING
                RETURNING id
            )
            SELECT count(*) FROM queued
            """,
            share,
            NIGHT,
            SMALLEST_BUDGET,
            UNKNOWN_BUDGET,
        )
        or 0
    )


async def audit_of_conversation(connection: Connection, page_id: str, psid: str) -> dict[str, Any]:
    """What the last audits made of a conversation: of its threads, what is the least certain."""
    [row] = await connection.fetch(
        """
        SELECT
            CASE
                WHEN bool_or(t.audited_at IS NULL) THEN NULL
                WHEN bool_or(t.audit_state = 'unverifiable') THEN 'unverifiable'
                ELSE min(t.audit_state)
            END AS audit_state,
            CASE WHEN bool_or(t.audited_at IS NULL) THEN NULL ELSE min(t.audited_at) END AS audited_at,
            (
                SELECT count(*) FROM messages AS m
                WHERE m.page_id = $1 AND m.psid = $2
                AND m.absent_since IS NOT NULL AND m.missing_in_graph_since IS NOT NULL
            ) AS missing_in_graph
        FROM conversation_threads AS t WHERE t.page_id = $1 AND t.psid = $2
        """,
        page_id,
        psid,
    )
    return dict(row)

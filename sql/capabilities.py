"""What Graph was found to do for a Page: `page_capabilities`, and what the mirror itself can answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from sql.upsert import Connection


class Capability(NamedTuple):
    """One question's answer."""

    name: str
    answer: str
    detail: str | None = None


async def put_capabilities(connection: Connection, page_id: str, found: Sequence[Capability]) -> None:
    """Store answers; an earlier one to the same question is replaced."""
    await connection.execute(
        """
        INSERT INTO page_capabilities (page_id, name, answer, detail, asked_at)
        SELECT $1, n.name, n.answer, n.detail, now()
        FROM unnest($2::text[], $3::text[], $4::text[]) AS n (name, answer, detail)
        ORDER BY n.name
        ON CONFLICT (page_id, name) DO UPDATE SET
            answer = excluded.answer, detail = excluded.detail, asked_at = excluded.asked_at
        """,
        page_id,
        *zip(*found, strict=True),
    )


async def list_capabilities(connection: Connection, page_id: str) -> list[asyncpg.Record]:
    """Every answer known of a Page."""
    return await connection.fetch(
        "SELECT name, answer, detail, asked_at FROM page_capabilities WHERE page_id = $1 ORDER BY name", page_id
    )


async def count_doors(connection: Connection, page_id: str) -> tuple[int, int, int]:
    """Of a Page's messages: how many both doors brought under one id, and how many each brought alone."""
    row = await connection.fetchrow(
        """
        SELECT
            count(*) FILTER (WHERE webhook_seen_at IS NOT NULL AND sync_seen_at IS NOT NULL) AS both,
            count(*) FILTER (WHERE webhook_seen_at IS NOT NULL AND sync_seen_at IS NULL) AS webhook,
            count(*) FILTER (WHERE webhook_seen_at IS NULL AND sync_seen_at IS NOT NULL) AS sync
        FROM messages WHERE page_id = $1 AND sent_at IS NOT NULL
        """,
        page_id,
    )
    return (row["both"], row["webhook"], row["sync"]) if row else (0, 0, 0)


async def reactions_that_moved(connection: Connection, page_id: str) -> tuple[int, int]:
    """Of reactions at least a minute younger than all messages: of how many `updated_time` tells, and of how many not.

    Only conversations that Graph showed at least five minutes after the reaction can tell.
    """
    row = await connection.fetchrow(
        """
        SELECT
            count(*) FILTER (WHERE c.updated_time >= r.at - interval '2 s') AS moved,
            count(*) FILTER (WHERE c.updated_time < r.at - interval '2 s') AS unmoved
        FROM conversations AS c
        CROSS JOIN LATERAL (
            SELECT max(r.reacted_at) AS at FROM messages AS m
            JOIN message_reactions AS r ON r.page_id = m.page_id AND r.mid = m.mid
            WHERE m.page_id = c.page_id AND m.psid = c.psid AND m.sent_at > c.last_message_at - interval '7 days'
        ) AS r
        WHERE c.page_id = $1 AND r.at > c.last_message_at + interval '1 minute'
        AND to_timestamp((c.graph #>> '{updated_time,1}')::double precision / 1000) > r.at + interval '5 minutes'
        """,
        page_id,
    )
    return (row["moved"], row["unmoved"]) if row else (0, 0)

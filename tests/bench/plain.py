"""The plain way to read a list: pages by OFFSET, tags as ids that are loaded into memory, words by LIKE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.conversations import SHOWN

if TYPE_CHECKING:
    import asyncpg

    from sql.conversation_lists import Wanted
    from sql.upsert import Connection

_TAGGED = """
    EXISTS (
        SELECT FROM conversation_tags AS t JOIN tags AS n ON n.id = t.tag_id
        WHERE t.page_id = c.page_id AND t.psid = c.psid AND n.name = {}
    )
"""


class Plain:
    """Reads pages of `limit` rows."""

    def __init__(self, connection: Connection, limit: int) -> None:
        self._connection, self._limit = connection, limit

    async def by_offset(self, wanted: Wanted, offset: int) -> list[asyncpg.Record]:
        """Read the conversations with all of some tags and none of others, after the first `offset`."""
        included = [f"${n}" for n in range(4, 4 + len(wanted.include_tags))]
        excluded = [f"${n}" for n in range(4 + len(included), 4 + len(included) + len(wanted.exclude_tags))]
        tagged = [*(_TAGGED.format(n) for n in included), *(f"NOT {_TAGGED.format(n)}" for n in excluded)]
        return await self._connection.fetch(
            f"""
            SELECT {SHOWN} FROM conversations AS c
            WHERE c.last_message_at IS NOT NULL AND ($1::text IS NULL OR c.page_id = $1)
            AND {" AND ".join(tagged)}
            ORDER BY c.last_message_at DESC, c.page_id DESC, c.psid DESC LIMIT $2 OFFSET $3
            """,
            wanted.page_id, self._limit, offset, *wanted.include_tags, *wanted.exclude_tags,
        )  # fmt: skip

    async def by_ids(self, wanted: Wanted, offset: int) -> list[asyncpg.Record]:
        """Load the ids of each tag's conversations, compute with them here, and send them back for a page."""
        with_all = set.intersection(*[await self._ids(wanted, tag) for tag in wanted.include_tags])
        keys = with_all.difference(*[await self._ids(wanted, tag) for tag in wanted.exclude_tags])
        return await self._connection.fetch(
            f"""
            SELECT {SHOWN} FROM unnest($1::text[], $2::text[]) AS k (page_id, psid)
            JOIN conversations AS c ON c.page_id = k.page_id AND c.psid = k.psid
            WHERE c.last_message_at IS NOT NULL
            ORDER BY c.last_message_at DESC, c.page_id DESC, c.psid DESC LIMIT $3 OFFSET $4
            """,
            [page_id for page_id, _ in keys], [psid for _, psid in keys], self._limit, offset,
        )  # fmt: skip

    async def _ids(self, wanted: Wanted, tag: str) -> set[tuple[str, str]]:
        rows = await self._connection.fetch(
            """
            SELECT t.page_id, t.psid FROM conversation_tags AS t JOIN tags AS n ON n.id = t.tag_id
            WHERE n.name = $2 AND ($1::text IS NULL OR t.page_id = $1)
            """,
            wanted.page_id,
            tag,
        )
        return {(row["page_id"], row["psid"]) for row in rows}

    async def like(self, word: str, page_id: str | None) -> list[asyncpg.Record]:
        """Read the conversations with a text that has this word, whatever stands before or after it."""
        return await self._connection.fetch(
            f"""
            SELECT {SHOWN} FROM conversations AS c
            WHERE c.last_message_at IS NOT NULL AND ($1::text IS NULL OR c.page_id = $1)
            AND EXISTS (
                SELECT FROM messages AS m
                WHERE m.page_id = c.page_id AND m.psid = c.psid AND m.text ILIKE '%' || $2 || '%'
            )
            ORDER BY c.last_message_at DESC, c.page_id DESC, c.psid DESC LIMIT $3
            """,
            page_id,
            word,
            self._limit,
        )

    async def messages(self, page_id: str, psid: str, *, offset: int) -> list[asyncpg.Record]:
        """Read a conversation's messages after the newest `offset`."""
        return await self._connection.fetch(
            """
            SELECT
                m.page_id, m.mid, m.psid, m.thread_id, m.direction, m.app_id, m.sent_at, m.text, m.attachments,
                m.reply_to, m.is_deleted, m.deleted_at, m.first_seen_via, m.first_seen_at, m.webhook_seen_at,
                m.sync_seen_at, m.updated_at
            FROM messages AS m WHERE m.page_id = $1 AND m.psid = $2 AND m.sent_at IS NOT NULL
            ORDER BY m.sent_at DESC, m.mid DESC LIMIT $3 OFFSET $4
            """,
            page_id,
            psid,
            self._limit,
            offset,
        )

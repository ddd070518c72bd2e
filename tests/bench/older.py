"""The three ways to sync that this design replaces, each as plainly as it is told, into two tables of their own.

- v0: sequential, row by row, all of it every time: 25 conversations a call, a call for each one's messages;
- v1: sequential, in bulk, all of it every time: 100 conversations a call with their messages in it;
- v2: as v1, but Pages in parallel, and only what Graph says changed `since` the last time, which it trusts.

They keep neither watermarks that a crash can't spoil, nor edits, deletions or threads' persons, and store less than the
mirror does: what they win by that is theirs.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from sql.json_values import dumps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from reconciler.graph.client import GraphClient
    from sql.pool import Pool
    from tests.bench.meta import PageRef

V0, V1, V2 = "v0", "v1", "v2"
CONVERSATION_FIELDS = "id,updated_time,participants"
MESSAGE_FIELDS = "id,created_time,from,to,message,attachments,sticker,shares{id,link,name,description},reply_to"
NESTED = f"{CONVERSATION_FIELDS},messages.limit(25){{{MESSAGE_FIELDS}}}"
PAGES_AT_ONCE = 32

_TABLES = """
    CREATE TABLE IF NOT EXISTS plain_conversations (page_id text, id text PRIMARY KEY, updated_time timestamptz);
    CREATE TABLE IF NOT EXISTS plain_messages (
        page_id text, id text PRIMARY KEY, conversation_id text, created_time timestamptz, sender text, message text,
        attachments jsonb
    );
    TRUNCATE plain_conversations, plain_messages;
"""
_CONVERSATION = """
    INSERT INTO plain_conversations VALUES ($1, $2, $3)
    ON CONFLICT (id) DO UPDATE SET updated_time = excluded.updated_time
"""
_MESSAGE = """
    INSERT INTO plain_messages VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb)
    ON CONFLICT (id) DO UPDATE SET message = excluded.message, attachments = excluded.attachments
"""
_CONVERSATIONS = """
    INSERT INTO plain_conversations SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[])
    ON CONFLICT (id) DO UPDATE SET updated_time = excluded.updated_time
"""
_MESSAGES = """
    INSERT INTO plain_messages
    SELECT n.a, n.b, n.c, n.d, n.e, n.f, n.g::jsonb
    FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[])
        AS n (a, b, c, d, e, f, g)
    ON CONFLICT (id) DO UPDATE SET message = excluded.message, attachments = excluded.attachments
"""


class Algorithm(Protocol):
    """A way to sync Pages."""

    async def sync(self, pages: Sequence[PageRef]) -> None:
        """Sync these Pages."""

    async def stored(self, page: PageRef) -> set[str]:
        """The ids of the messages that are stored of a Page."""


class Older:
    """One of the three."""

    def __init__(self, pool: Pool, client: GraphClient, version: str) -> None:
        self._pool, self._client, self._version = pool, client, version
        self._last: dict[str, int] = {}

    async def clear(self) -> None:
        """Begin with nothing stored."""
        self._last.clear()
        async with self._pool.acquire() as connection:
            await connection.execute(_TABLES)

    async def stored(self, page: PageRef) -> set[str]:
        """The ids of the messages that are stored of a Page."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch("SELECT id FROM plain_messages WHERE page_id = $1", page.id)
        return {row["id"] for row in rows}

    async def sync(self, pages: Sequence[PageRef]) -> None:
        """Sync these Pages, one after the other or in parallel."""
        if self._version != V2:
            for page in pages:
                await (self._row_by_row(page) if self._version == V0 else self._in_bulk(page))
            return
        places = asyncio.Semaphore(PAGES_AT_ONCE)

        async def sync_one(page: PageRef) -> None:
            async with places:
                await self._in_bulk(page, since=self._last.get(page.id))

        await asyncio.gather(*map(sync_one, pages))

    async def _row_by_row(self, page: PageRef) -> None:
        path = f"{page.id}/conversations"
        async for conversations in self._pages(page, path, {"fields": CONVERSATION_FIELDS, "limit": 25}):
            for conversation in conversations:
                async with self._pool.acquire() as connection:
                    await connection.execute(_CONVERSATION, *_conversation_row(page, conversation))
                path = f"{conversation['id']}/messages"
                async for messages in self._pages(page, path, {"fields": MESSAGE_FIELDS, "limit": 25}):
                    for message in messages:
                        async with self._pool.acquire() as connection:
                            await connection.execute(_MESSAGE, *_message_row(page, conversation, message))

    async def _in_bulk(self, page: PageRef, since: int | None = None) -> None:
        params: dict[str, str | int] = {"fields": NESTED, "limit": 100}
        if since is not None:
            params["since"] = since
        async for conversations in self._pages(page, f"{page.id}/conversations", params):
            messages = []
            for conversation in conversations:
                nested = conversation.get("messages", {"data": []})
                messages += [_message_row(page, conversation, m) for m in nested["data"]]
                if "next" in nested.get("paging", {}):
                    after = nested["paging"]["cursors"]["after"]
                    path = f"{conversation['id']}/messages"
                    async for older in self._pages(page, path, {"fields": MESSAGE_FIELDS, "limit": 100}, after):
                        messages += [_message_row(page, conversation, m) for m in older]
            rows = [_conversation_row(page, c) for c in conversations]
            async with self._pool.acquire() as connection, connection.transaction():
                if rows:
                    await connection.execute(_CONVERSATIONS, *zip(*rows, strict=True))
                if messages:
                    await connection.execute(_MESSAGES, *zip(*messages, strict=True))
            newest = max((int(row[2].timestamp()) for row in rows), default=0)
            self._last[page.id] = max(self._last.get(page.id, 0), newest)

    async def _pages(
        self, page: PageRef, path: str, params: dict[str, str | int], after: str | None = None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        while True:
            asked = params | ({"after": after} if after else {})
            answer = await self._client.get(page.token, page.id, path, asked)
            yield answer.data["data"]
            if "next" not in answer.data.get("paging", {}):
                return
            after = answer.data["paging"]["cursors"]["after"]


def _conversation_row(page: PageRef, conversation: dict[str, Any]) -> tuple[Any, ...]:
    return page.id, conversation["id"], datetime.fromisoformat(conversation["updated_time"])


def _message_row(page: PageRef, conversation: dict[str, Any], message: dict[str, Any]) -> tuple[Any, ...]:
    attachments = message.get("attachments")
    return (
        page.id,
        message["id"],
        conversation["id"],
        datetime.fromisoformat(message["created_time"]),
        message["from"]["id"],
        message.get("message"),
        dumps(attachments) if attachments else None,
    )

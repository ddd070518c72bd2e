"""A receiver as the application makes it, what Facebook would post to it, and the rows that came of that."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from app.webhook.delivery_reader import DeliveryReader
from app.webhook.durable import Durable
from app.webhook.group_commit import GroupCommit
from app.webhook.receiver import Receiver
from app.webhook.signature import HEADER, sign
from sql.ingest import Ingestor
from sql.spool import Spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sql.pool import Pool
    from sql.upsert import Connection

SECRET, PREVIOUS_SECRET = "the app's secret", "the secret before"
VERIFY_TOKEN = "the verify token"

PAGE, PSID = "104203300000001", "7300000000000011"
SENT_AT = 1_760_000_000_123
MID = "m_Kx3vQ1aZ-unit_0001"


def escaped(body: Any) -> bytes:
    """Write a body as Meta does: ASCII, slashes escaped (webhooks reference, section 2)."""
    return json.dumps(body, separators=(",", ":")).replace("/", "\\/").encode()


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {HEADER: sign(body, secret.encode()).decode(), "content-type": "application/json"}


def delivery_of(*items: Any, via: str = "messaging", page_id: Any = PAGE) -> dict[str, Any]:
    return {"object": "page", "entry": [{"id": page_id, "time": SENT_AT + 333, via: list(items)}]}


def text_item(number: int = 1, **message: Any) -> dict[str, Any]:
    return {
        "sender": {"id": PSID},
        "recipient": {"id": PAGE},
        "timestamp": SENT_AT + number,
        "message": {"mid": f"m_unit_{number:04}", "text": f"text {number}"} | message,
    }


@asynccontextmanager
async def client_of(app: Receiver) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://mirror.test") as client:
        yield client


NO_FOLDER = Path("/dev/null/spool")  # nothing can be written there, by nobody


@asynccontextmanager
async def durable(pool: Pool, folder: Path = NO_FOLDER) -> AsyncIterator[Durable]:
    """What makes deliveries durable through the pool; without a folder it has no spool."""
    async with Spool(folder, max_bytes=2**30) as spool, GroupCommit(Ingestor(pool)) as group_commit:
        yield Durable(group_commit, spool, DeliveryReader())


@asynccontextmanager
async def webhook(pool: Pool, folder: Path = NO_FOLDER) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a receiver that writes through the pool."""
    async with durable(pool, folder) as made:
        receiver = Receiver(made, secrets=[SECRET, PREVIOUS_SECRET], verify_tokens=[VERIFY_TOKEN])
        async with client_of(receiver) as client:
            yield client


async def post(client: httpx.AsyncClient, body: Any) -> httpx.Response:
    """Post a body, signed; a body that is no bytes is written as Meta does."""
    raw = body if isinstance(body, bytes) else escaped(body)
    return await client.post("/webhook", content=raw, headers=signed(raw))


_OURS = "ARRAY['created_at', 'updated_at', 'seen_batch', 'changed_batch', 'delivery_day', 'delivery_id', 'body']"
_TABLES = {
    "conversations": "psid",
    "messages": "mid",
    "message_reactions": "mid, actor",
    "conversation_events": "event_key",
    "webhook_deliveries": "received_at",
}
_DERIVED = {
    "conversations": {"last_message_mid", "last_message_at", "last_message_direction", "is_unread"},
    "messages": {"first_seen_at"},
    "webhook_deliveries": {"day", "id", "received_at"},
}


async def rows_of(connection: Connection, *tables: str) -> dict[str, list[dict[str, Any]]]:
    """Read all rows, without what is derived from other columns; absent keys are NULL, false or an empty list.

    Our own clock's times are told by where they came from: "received".
    """
    received = {
        r["at"] for r in await connection.fetch("SELECT to_jsonb(received_at) #>> '{}' AS at FROM webhook_deliveries")
    }
    rows = {}
    for table in tables or _TABLES:
        found = await connection.fetch(
            f"SELECT to_jsonb(t) - {_OURS} AS row FROM {table} AS t ORDER BY page_id, {_TABLES[table]}"
            if table != "webhook_deliveries"
            else f"SELECT to_jsonb(t) - {_OURS} AS row FROM {table} AS t ORDER BY {_TABLES[table]}"
        )
        rows[table] = [
            {
                key: "received" if isinstance(value, str) and value in received else value
                for key, value in r["row"].items()
                if value is not None and value is not False and value != [] and key not in _DERIVED.get(table, ())
            }
            for r in found
        ]
    return {table: values for table, values in rows.items() if values}

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sql.pool import Pool, open_pool
from tests.app.webhook.support import escaped, post, rows_of, webhook
from tests.conftest import new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

FOLDER = Path(__file__).parents[2] / "data" / "webhooks"
FIXTURES = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}


@pytest.fixture(scope="module")
async def one_pool(server: str, templates: dict[str, str]) -> AsyncIterator[Pool]:
    """One database for all bodies: each test empties it."""
    async with new_database(server, templates, "plain") as dsn, open_pool(dsn, min_size=1, max_size=3) as pool:
        yield pool


@pytest.fixture(scope="module")
async def one_client(one_pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    async with webhook(one_pool) as client:
        yield client


@pytest.fixture
async def emptied(one_pool: Pool) -> Pool:
    async with one_pool.acquire() as connection:
        for table in (
            "conversations",
            "messages",
            "message_reactions",
            "conversation_events",
            "webhook_deliveries",
        ):
            await connection.execute(f"DELETE FROM {table}")
    return one_pool


def without_journal(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {table: values for table, values in rows.items() if table != "webhook_deliveries"}


@pytest.mark.parametrize("name", FIXTURES)
async def test_an_event_of_every_kind_and_shape_is_stored(
    name: str, emptied: Pool, one_client: httpx.AsyncClient
) -> None:
    fixture = json.loads(FIXTURES[name].read_bytes())
    body = escaped(fixture["body"])
    response = await post(one_client, body)
    assert (response.status_code, response.text) == (200, "EVENT_RECEIVED")
    async with emptied.acquire() as connection:
        assert await rows_of(connection) == fixture["expect"], fixture["claims"]
        assert await connection.fetchval("SELECT body FROM webhook_deliveries") == body
        # Facebook repeats what it is not sure of
        await post(one_client, body)
        assert without_journal(await rows_of(connection)) == without_journal(fixture["expect"])

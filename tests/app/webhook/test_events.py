from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.app.webhook.support import escaped, post, rows_of

if TYPE_CHECKING:
    import httpx

    from sql.pool import Pool

FOLDER = Path(__file__).parents[2] / "data" / "webhooks"
FIXTURES = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}


def without_journal(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {table: values for table, values in rows.items() if table != "webhook_deliveries"}


@pytest.mark.parametrize("name", FIXTURES)
async def test_an_event_of_every_kind_and_shape_is_stored(name: str, pool: Pool, client: httpx.AsyncClient) -> None:
    fixture = json.loads(FIXTURES[name].read_bytes())
    body = escaped(fixture["body"])
    response = await post(client, body)
    assert (response.status_code, response.text) == (200, "EVENT_RECEIVED")
    async with pool.acquire() as connection:
        assert await rows_of(connection) == fixture["expect"], fixture["claims"]
        assert await connection.fetchval("SELECT body FROM webhook_deliveries") == body
        # Facebook repeats what it is not sure of
        await post(client, body)
        assert without_journal(await rows_of(connection)) == without_journal(fixture["expect"])

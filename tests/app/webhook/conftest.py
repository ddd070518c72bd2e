"""One database for all tests of the receiver, emptied for each: there are many, and a database takes its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.webhook import group_commit
from sql.pool import Pool, open_pool
from tests.app.webhook.support import webhook
from tests.conftest import new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

TABLES = ("conversations", "messages", "message_reactions", "conversation_events", "webhook_deliveries")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether this machine is quick is no question here; a test of the deadline sets its own."""
    monkeypatch.setattr(group_commit, "COMMIT_WITHIN_SECONDS", 60.0)


@pytest.fixture(scope="session")
async def one_database(server: str, templates: dict[str, str]) -> AsyncIterator[str]:
    async with new_database(server, templates, "plain") as dsn:
        yield dsn


@pytest.fixture
async def pool(one_database: str) -> AsyncIterator[Pool]:
    async with open_pool(one_database, min_size=1, max_size=10) as made:
        for table in TABLES:
            await made.execute(f"DELETE FROM {table}")
        yield made


@pytest.fixture
async def client(pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    """Who posts to a receiver that writes through the pool."""
    async with webhook(pool) as made:
        yield made

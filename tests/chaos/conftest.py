from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import stamina

from tests.chaos.machines import database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.chaos.machines import Database


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Retries don't wait, and there are as many as in earnest."""
    with stamina.set_testing(True, attempts=5, cap=True):
        yield


@pytest.fixture(scope="session")
async def own_server() -> AsyncIterator[Database]:
    """A Postgres that is nobody else's: it may be killed."""
    async with database() as server:
        yield server


@pytest.fixture
async def server_to_kill(own_server: Database) -> Database:
    """It runs, with an empty database."""
    await own_server.start()
    await own_server.empty()
    return own_server

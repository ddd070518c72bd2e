from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.due import PER_PAGE
from sql.pages import put_page
from tests.app.service import running, settings_for
from tests.app.test_lifespan import NOON

if TYPE_CHECKING:
    from sql.upsert import Connection


@pytest.mark.parametrize(("gap", "is_down"), [(timedelta(seconds=1), False), (timedelta(hours=1), True)])
async def test_a_process_that_receives_brings_every_page_forward_when_none_has_received_for_a_while(
    database: str, connection: Connection, gap: timedelta, *, is_down: bool
) -> None:
    await put_page(connection, "1", "sealed", None, now=NOON)
    await connection.execute("UPDATE facebook_pages SET next_sync_at = now() + interval '1 hour'")
    await connection.execute("INSERT INTO heartbeats (name, at) VALUES ('receiver', now() - $1::interval)", gap)
    async with running(settings_for(database)) as service:
        await service.state["arrived"].wait()
    [(has_beaten, is_due)] = await connection.fetch(
        """
        SELECT h.at > now() - interval '1 minute', p.next_sync_at <= now() + $1::interval
        FROM heartbeats AS h, facebook_pages AS p WHERE h.name = 'receiver'
        """,
        PER_PAGE,
    )
    assert (has_beaten, is_due) == (True, is_down)

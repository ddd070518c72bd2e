"""`messenger-mirror erase`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.app.process import process
from tests.app.service import deliver, text_delivery

if TYPE_CHECKING:
    from pathlib import Path

    from tests.app.service import Service

ERASE = ("-m", "app.cli.main", "erase", "--page", "1001", "--psid", "7001")


async def test_it_erases_beside_a_running_service_and_says_what(
    service: Service, database: str, tmp_path: Path
) -> None:
    await deliver(
        service.http, text_delivery("1001", "7001", "m_1", "a private word", datetime(2026, 3, 1, tzinfo=UTC))
    )
    async with process(tmp_path, *ERASE, "--yes", DATABASE_URL=database) as made:
        assert await made.ended() == 0, made.output
    assert "1 messages and 0 events erased, and taken out of 1 journaled deliveries" in " ".join(made.output.split())
    assert (await service.http.get("/api/conversations/1001/7001")).status_code == 404
    async with process(tmp_path, *ERASE, "--yes", DATABASE_URL=database) as made:
        assert await made.ended() == 0, made.output
    assert "nothing was known of 7001" in made.output


async def test_it_asks_first_and_refuses_a_time_to_come(service: Service, database: str, tmp_path: Path) -> None:
    await deliver(service.http, text_delivery("1001", "7001", "m_1", "hello", datetime(2026, 3, 1, tzinfo=UTC)))
    async with process(tmp_path, *ERASE, DATABASE_URL=database) as made:
        assert await made.ended() == 1
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    async with process(tmp_path, *ERASE, "--yes", "--before", tomorrow, DATABASE_URL=database) as made:
        assert await made.ended() == 2
    assert "lies in the future" in made.output
    assert (await service.http.get("/api/conversations/1001/7001")).status_code == 200

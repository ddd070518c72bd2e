"""`messenger-mirror audit`, as a process of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from reconciler.tokens import TokenBox
from sql.pages import put_page
from tests.app.graph import FakeGraph, thread
from tests.app.process import process
from tests.app.service import ENCRYPTION_KEY, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sql.upsert import Connection

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
COMMAND = ("-m", "app.cli.main", "audit")


@pytest.fixture
async def graph_url(connection: Connection) -> AsyncIterator[str]:
    """Two Pages, of which one has a token that Graph does not know."""
    fake = FakeGraph()
    fake.add("good", "1001", *(thread("1001", f"p{n}", (f"m_{n}", "hello", NOON)) for n in range(3)))
    for page_id, token in (("1001", "good"), ("1002", "bad")):
        await put_page(connection, page_id, TokenBox([ENCRYPTION_KEY]).seal(token), None, now=NOON)
    async with served(fake, lifespan="off") as url:
        yield url


async def test_it_audits_a_page_and_shows_what_it_found(tmp_path: Path, database: str, graph_url: str) -> None:
    settings = {"DATABASE_URL": database, "GRAPH_API_URL": graph_url, "COLUMNS": "200"}
    async with process(tmp_path, *COMMAND, "1001", **settings) as made:
        assert await made.ended() == 0, made.output
    rows = [line.split("│")[1:-1] for line in made.output.splitlines() if "1001" in line]
    run, found = ([cell.strip() for cell in row] for row in rows)
    assert run[1:3] == ["audit", "succeeded"]
    assert found == ["1001", "0", "3", "0", "3", "0", "0", "100.0%"]


async def test_it_ends_with_1_when_a_page_failed_and_audits_the_others(
    tmp_path: Path, database: str, graph_url: str, connection: Connection
) -> None:
    settings = {"DATABASE_URL": database, "GRAPH_API_URL": graph_url, "COLUMNS": "200"}
    async with process(tmp_path, *COMMAND, **settings) as made:
        assert await made.ended() == 1, made.output
    assert "token is dead" in " ".join(made.output.split())
    runs = await connection.fetch("SELECT page_id, kind, state FROM sync_runs ORDER BY page_id")
    assert [tuple(run) for run in runs] == [("1001", "audit", "succeeded"), ("1002", "audit", "failed")]


async def test_an_unknown_page_is_told(tmp_path: Path, database: str, graph_url: str) -> None:
    async with process(tmp_path, *COMMAND, "77", DATABASE_URL=database, GRAPH_API_URL=graph_url) as made:
        assert await made.ended() == 2
    assert "no such Pages: 77" in " ".join(made.output.split())

"""`messenger-mirror loss`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.app.process import process

if TYPE_CHECKING:
    from pathlib import Path


async def test_its_table_is_whole_where_the_terminal_is_narrow(database: str, tmp_path: Path) -> None:
    async with process(tmp_path, "-m", "app.cli.main", "loss", DATABASE_URL=database, COLUMNS="40") as made:
        assert await made.ended() == 0, made.output
    heads = [cell.strip() for cell in made.output.splitlines()[1].strip("┃").split("┃")]
    assert heads[:3] == ["page_id", "hour (UTC)", "sent"]
    assert heads[-3:] == ["loss %", "webhook late", "repair late"]


@pytest.mark.parametrize("command", ["loss", "replay", "backfill"])
async def test_a_range_that_ends_before_it_begins_is_refused(command: str, database: str, tmp_path: Path) -> None:
    arguments = (command, "--since", "2026-03-02", "--until", "2026-03-01")
    async with process(tmp_path, "-m", "app.cli.main", *arguments, DATABASE_URL=database) as made:
        assert await made.ended() == 2, made.output
    assert "--until must be later" in made.output

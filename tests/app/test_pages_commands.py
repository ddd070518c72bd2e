"""`messenger-mirror pages`: what the owner does with Pages at a terminal, beside a running service or without one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sql.pool import connect
from tests.app.graph import FakeGraph
from tests.app.process import process
from tests.app.service import PAGE_TOKEN, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sql.upsert import Connection

    Run = Callable[..., Awaitable[tuple[int, str]]]

PAGE = "1001"
USER_TOKEN = "EAAuser-token-91"
# what Graph refuses is asked again as often as in earnest, without waiting
MAIN = "import stamina; stamina.set_testing(True, attempts=5, cap=True); from app.cli.main import main; main()"


@pytest.fixture
async def meta() -> AsyncIterator[tuple[FakeGraph, str]]:
    """Graph behind an address, with a person who has one Page."""
    fake = FakeGraph()
    token = f"{PAGE_TOKEN}-{PAGE}"
    fake.add(token, PAGE)
    fake.persons[USER_TOKEN] = [{"id": PAGE, "name": "Shop", "access_token": token, "tasks": ["MESSAGING"]}]
    async with served(fake, lifespan="off") as address:
        yield fake, address


@pytest.fixture
async def run(meta: tuple[FakeGraph, str], database: str, tmp_path: Path) -> Run:
    """Run one command to its end: its code, and what it said in one line."""

    async def command(*arguments: str, **environment: str) -> tuple[int, str]:
        known = {"DATABASE_URL": database, "GRAPH_API_URL": meta[1], **environment}
        async with process(tmp_path, "-c", MAIN, "pages", *arguments, **known) as made:
            code = await made.ended()
        assert USER_TOKEN not in made.output
        assert PAGE_TOKEN not in made.output
        return code, " ".join(made.output.split())

    return command


@pytest.fixture
async def stored(database: str) -> AsyncIterator[Connection]:
    """The database beside the commands."""
    connection = await connect(database)
    try:
        yield connection
    finally:
        await connection.close()


async def state(connection: Connection) -> tuple[str, bool]:
    row = await connection.fetchrow(
        """
        SELECT p.state, s.is_wanted FROM facebook_pages AS p
        JOIN page_subscriptions AS s ON s.page_id = p.page_id WHERE p.page_id = $1
        """,
        PAGE,
    )
    assert row is not None
    return row["state"], row["is_wanted"]


async def test_a_page_is_imported_paused_resumed_unsubscribed_subscribed_and_removed(
    run: Run, meta: tuple[FakeGraph, str], stored: Connection
) -> None:
    graph = meta[0]
    code, said = await run("import", USER_ACCESS_TOKEN=USER_TOKEN)
    assert (code, f"{PAGE} Shop: added; its webhooks are subscribed" in said) == (0, True), said
    assert graph.subscribed.keys() == {PAGE}
    for command, code, state_then in (
        ("pause", 0, ("paused", True)),
        ("resume", 0, ("active", True)),
        ("unsubscribe", 0, ("active", False)),
        ("subscribe", 0, ("active", True)),
    ):
        assert (await run(command, PAGE))[0] == code
        assert await state(stored) == state_then
    assert graph.subscribed.keys() == {PAGE}
    assert await run("remove", PAGE) == (0, f"Page {PAGE} removed; its conversations stay")
    assert graph.subscribed == {}
    for command in ("pause", "resume", "subscribe", "unsubscribe", "remove"):
        assert await run(command, PAGE) == (1, f"no Page {PAGE}")


async def test_removing_may_erase_what_was_mirrored_once_it_is_meant(run: Run, stored: Connection) -> None:
    await run("import", USER_ACCESS_TOKEN=USER_TOKEN)
    await stored.execute(
        """
        INSERT INTO conversations (page_id, psid, platform, created_at, updated_at)
        VALUES ($1, 'p', 'messenger', $2, $2)
        """,
        PAGE,
        datetime.now(UTC),
    )
    assert (await run("remove", PAGE, "--erase"))[0] == 1  # nobody answers
    assert await state(stored) == ("active", True)
    code, said = await run("remove", PAGE, "--erase", "--yes")
    assert (code, said) == (0, f"Page {PAGE} removed; 1 rows erased, 0 deliveries redacted")
    assert await stored.fetchval("SELECT count(*) FROM conversations") == 0


async def test_what_graph_refuses_for_good_is_told_where_a_page_is_removed(
    run: Run, meta: tuple[FakeGraph, str], stored: Connection
) -> None:
    await run("import", USER_ACCESS_TOKEN=USER_TOKEN)
    await stored.execute("UPDATE facebook_pages SET name = '[red]Shop'")
    assert "[red]Shop" in (await run("list"))[1]
    meta[0].pages.clear()
    code, said = await run("remove", PAGE)
    assert code == 0
    told = (
        f"Page {PAGE} removed; its conversations stay its webhooks could not be ended, and what they bring is stored: "
    )
    assert said.startswith(f"{told}Graph error 190"), said


@pytest.mark.parametrize("command", ["add", "import"])
async def test_a_graph_that_is_away_is_one_line_at_the_terminal(run: Run, command: str) -> None:
    token = {"PAGE_ACCESS_TOKEN": USER_TOKEN, "USER_ACCESS_TOKEN": USER_TOKEN}
    code, said = await run(command, GRAPH_API_URL="http://127.0.0.1:9", **token)
    reason = "the Graph API could not be reached: ConnectError"
    more = ", or give page_id and name" if command == "add" else ""
    assert (code, said) == (1, f"messenger-mirror: Graph can't be asked now ({reason}): try again{more}")


async def test_a_graph_that_is_away_is_told(run: Run, stored: Connection) -> None:
    await run("import", USER_ACCESS_TOKEN=USER_TOKEN)
    away = {"GRAPH_API_URL": "http://127.0.0.1:9"}
    code, said = await run("remove", PAGE, **away)
    assert (code, "only its token can: nothing was done" in said) == (1, True), said
    assert await state(stored) == ("active", True)
    assert (await run("remove", PAGE, "--keep-webhooks", **away))[0] == 0


async def test_a_persons_token_is_not_taken_for_a_pages(run: Run) -> None:
    code, said = await run("add", PAGE_ACCESS_TOKEN=USER_TOKEN)
    assert (code, "pages import" in said) == (1, True), said

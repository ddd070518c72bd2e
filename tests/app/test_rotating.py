"""Tokens at rest: under which key they are, and that nobody reads them in a dump."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from app.rotating import rotate_key
from reconciler.tokens import TokenBox
from tests.app.process import process
from tests.app.service import ENCRYPTION_KEY, PAGE_TOKEN, add_page

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.app.graph import FakeGraph
    from tests.app.service import Service

PAGES = ("1001", "1002", "1003")


async def sealed(service: Service) -> dict[str, str]:
    async with service.state["pool"].acquire() as connection:
        rows = await connection.fetch("SELECT page_id, token_encrypted FROM facebook_pages ORDER BY page_id")
    return {row["page_id"]: row["token_encrypted"] for row in rows}


async def test_every_token_is_encrypted_anew_with_the_first_key_and_once_only(
    service: Service, graph: FakeGraph
) -> None:
    for page_id in PAGES:
        await add_page(service, graph, page_id)
    before, new = await sealed(service), Fernet.generate_key().decode()
    both = TokenBox([new, ENCRYPTION_KEY])
    assert await rotate_key(service.state["pool"], both) == (3, 0, [])
    after = await sealed(service)
    assert not set(before.values()) & set(after.values())
    assert {page_id: TokenBox([new]).open(token) for page_id, token in after.items()} == {
        page_id: f"{PAGE_TOKEN}-{page_id}" for page_id in PAGES
    }
    assert await rotate_key(service.state["pool"], both) == (0, 3, [])
    assert await sealed(service) == after


async def test_tokens_that_no_key_fits_are_told_and_left(service: Service, graph: FakeGraph) -> None:
    for page_id in PAGES:
        await add_page(service, graph, page_id)
    before = await sealed(service)
    stranger = TokenBox([Fernet.generate_key().decode()])
    assert await rotate_key(service.state["pool"], stranger) == (0, 0, list(PAGES))
    assert await sealed(service) == before


async def test_a_token_that_was_given_meanwhile_is_left(
    service: Service, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_page(service, graph, "1001")

    async def stale(_connection: object) -> dict[str, str]:
        return {"1001": service.state["tokens"].seal("one before")}

    monkeypatch.setattr("app.rotating.sealed_tokens", stale)
    assert await rotate_key(service.state["pool"], TokenBox([Fernet.generate_key().decode(), ENCRYPTION_KEY])) == (
        0,
        0,
        [],
    )


async def test_the_command_rotates_and_ends_with_1_where_a_token_can_not_be_read(
    service: Service, graph: FakeGraph, database: str, tmp_path: Path
) -> None:
    await add_page(service, graph, "1001")
    new = Fernet.generate_key().decode()
    rotate = ("-m", "app.cli.main", "rotate-key")
    keys = f"{new},{ENCRYPTION_KEY}"
    async with process(tmp_path, *rotate, DATABASE_URL=database, TOKEN_ENCRYPTION_KEY=keys) as made:
        assert await made.ended() == 0, made.output
    assert "1 tokens encrypted anew" in made.output
    async with process(tmp_path, *rotate, DATABASE_URL=database, TOKEN_ENCRYPTION_KEY=ENCRYPTION_KEY) as made:
        assert await made.ended() == 1, made.output
    assert "no key fits the tokens of 1001" in " ".join(made.output.split())


async def test_no_token_can_be_read_in_what_a_dump_would_hold(service: Service, graph: FakeGraph) -> None:
    graph.persons["EAAuser-token-77"] = [{"id": "1002", "name": "B", "access_token": "EAAof-1002"}]
    await add_page(service, graph, "1001")
    await service.http.post("/api/pages/import", json={"user_access_token": "EAAuser-token-77"})
    await service.http.post("/api/conversations/sync", json={"page_id": "1001"})
    async with service.state["pool"].acquire() as connection:
        tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        )
        dump = [str(await connection.fetch(f"SELECT t::text FROM {name} AS t")) for (name,) in tables]
    assert "1002" in "".join(dump)
    for token in (PAGE_TOKEN, "EAAof-1002", "EAAuser-token-77", ENCRYPTION_KEY):
        assert token not in "".join(dump)

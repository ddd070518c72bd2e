"""Postgres away, standing still, full; a spool left behind, or full: deliveries are answered 200 and kept."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx

from app.demo.run import Delivered
from simulator import Life, Sender, TurnedClock, World
from sql.pool import open_pool
from tests.app.service import APP_SECRET, deliver, text_delivery
from tests.chaos import verdict
from tests.chaos.figures import note_figures
from tests.chaos.ledger import Ledger
from tests.chaos.machines import (
    ANSWER_WITHIN_SECONDS,
    PAGE,
    Load,
    Service,
    assert_all_is_there,
    database,
    fill,
    small_disk,
)
from tests.gateway import gateway

if TYPE_CHECKING:
    from pathlib import Path

    from simulator import Item
    from tests.chaos.machines import Database

LONG = int(os.environ.get("MIRROR_OUTAGE", "0"))  # deliveries during each outage
DURING = LONG or 250
MINUTES = 60


def note(load: Load) -> None:
    note_figures(outages=1, acknowledged=len(load.acknowledged), lost=0)


async def test_while_postgres_is_away_all_is_answered_200_and_is_there_once_when_it_is_back(
    tmp_path: Path, server_to_kill: Database
) -> None:
    server = server_to_kill
    async with gateway(server.dsn) as way, Service(tmp_path, way.dsn) as service:
        async with Load(service) as load:
            await load.has_acknowledged(200)
            await way.close()
            await load.has_acknowledged(DURING)
            await way.open()
            await load.has_acknowledged(200)
        await service.is_drained()
        await assert_all_is_there(server, load.acknowledged)
        assert (load.refused, load.broken) == ([], 0)
        note(load)


async def test_an_hour_without_postgres_is_none_for_facebook_and_all_is_there_once_afterwards(
    tmp_path: Path, server_to_kill: Database
) -> None:
    """By the world's clock, at which Facebook would tell of failing webhooks, and unsubscribe the Pages."""
    clock, ledger, delivered = TurnedClock(), Ledger(), Delivered()
    world = World(60, pages=3, conversations_per_page=20, now=clock)
    life = Life(world, seed=60)
    told: list[Item] = []

    def note_item(item: Item) -> None:
        delivered.note(item)
        told.append(item)

    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(gateway(server_to_kill.dsn))
        service = await stack.enter_async_context(Service(tmp_path, way.dsn))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=60))
        ledger.watch(http)
        sender = Sender(
            http,
            f"{service.url}/webhook",
            APP_SECRET,
            world,
            batch=3,
            concurrency=8,
            repeat=0.05,
            reorder=0.1,
            deadline=ANSWER_WITHIN_SECONDS,
            on_acknowledged=note_item,
        )
        await sender.send([item for _ in range(50) for item in life.happen()])
        await way.close()
        for _ in range(MINUTES):
            await sender.send([item for _ in range(1 + DURING // MINUTES) for item in life.happen()])
            clock.advance(60)
        assert await service.spooled() >= MINUTES
        await way.open()
        await sender.flush()
        await service.is_drained()
        assert (sender.alerts, sender.counts.failed, sender.pending) == ([], 0, 0)
        assert sender.counts.acknowledged >= sender.counts.items == len({id(item) for item in told})
        async with open_pool(server_to_kill.dsn, min_size=1, max_size=2) as pool:
            assert await verdict.of_what_was_told(verdict.Mirror(world, pool, delivered, told, ledger)) == []
        note_figures(outages=1, acknowledged=ledger.acknowledged.total(), lost=0)


async def test_while_postgres_stands_still_all_is_answered_in_facebooks_time_and_is_there_once_afterwards(
    tmp_path: Path, server_to_kill: Database
) -> None:
    server = server_to_kill
    async with Service(tmp_path, server.dsn) as service:
        async with Load(service) as load:
            await load.has_acknowledged(200)
            async with server.standing_still():
                await load.has_acknowledged(DURING)
            await load.has_acknowledged(200)
        await service.is_drained()
        await assert_all_is_there(server, load.acknowledged)
        assert (load.refused, load.broken) == ([], 0)
        assert load.slowest < ANSWER_WITHIN_SECONDS
        note(load)


async def test_an_embedded_postgres_that_dies_is_started_again_and_all_is_there_once(tmp_path: Path) -> None:
    async with database() as server:  # which is the service's own, too, so that it can be asked at the end
        folder = server.folder
        async with Service(tmp_path, None, DATA_DIR=str(folder), SPOOL_DIR=str(tmp_path / "spool")) as service:
            async with Load(service) as load:
                for _ in range(2):
                    await load.has_acknowledged(DURING)
                    server.kill()
                await load.has_acknowledged(DURING)
                await service.is_drained()
            await service.is_drained()
            await assert_all_is_there(server, load.acknowledged)
            assert (load.refused, load.broken) == ([], 0)
            note(load)


async def test_while_postgres_disk_is_full_all_is_answered_200_and_is_there_once_afterwards(tmp_path: Path) -> None:
    with small_disk(300) as disk:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(database(disk))
            # on a disk of its own it is the service's, too, which has to start it again: without room it ends itself
            settings = {"DATA_DIR": str(disk), "SPOOL_DIR": str(tmp_path / "spool")} if disk else {}
            service = Service(tmp_path, None if disk else server.dsn, **settings)
            await stack.enter_async_context(service)
            async with Load(service) as load:
                await load.has_acknowledged(200)
                if disk is not None:
                    ballast = fill(disk)
                    await load.has_acknowledged(DURING)
                    ballast.unlink()
                else:
                    await server.fetch(FULL)
                    await load.has_acknowledged(DURING)
                    await server.fetch("DROP FUNCTION full_disk CASCADE")
                await load.has_acknowledged(200)
            await service.is_drained()
            await assert_all_is_there(server, load.acknowledged)
            assert (load.refused, load.broken) == ([], 0)
            note(load)


async def test_what_a_killed_process_left_in_its_spool_another_one_takes_over(
    tmp_path: Path, server_to_kill: Database
) -> None:
    server = server_to_kill
    async with gateway(server.dsn) as way, AsyncExitStack() as stack:
        spool = str(tmp_path / "spool")
        one = await stack.enter_async_context(Service(tmp_path, way.dsn, SPOOL_DIR=spool))
        other = await stack.enter_async_context(Service(tmp_path, way.dsn, SPOOL_DIR=spool))
        await way.close()
        async with Load(one) as load:
            await load.has_acknowledged(DURING)
            assert await one.spooled() >= DURING
            await one.kill()
        await way.open()
        # nothing came to the other one: it has to look for itself
        async with httpx.AsyncClient(base_url=other.url, timeout=60) as http:
            while len(await server.fetch("SELECT mid FROM messages")) < len(load.acknowledged):
                assert (await http.get("/healthz")).status_code == 200
        await other.is_drained()
        await assert_all_is_there(server, load.acknowledged)
        note(load)


async def test_only_a_spool_that_can_take_no_more_is_503_and_what_was_answered_200_before_is_there(
    tmp_path: Path, server_to_kill: Database
) -> None:
    with small_disk(2) as disk:
        limit = {"SPOOL_DIR": str(disk / "spool")} if disk else {"SPOOL_MAX_BYTES": "1000000"}
        server = server_to_kill
        async with gateway(server.dsn) as way, Service(tmp_path, way.dsn, **limit) as service:
            await way.close()
            acknowledged, statuses = await until_refused(service)
            assert statuses == {200, 503}
            async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
                assert (await http.get("/readyz")).status_code == 503
            await way.open()
            await service.is_drained()
            await assert_all_is_there(server, acknowledged)
            more, statuses = await until_refused(service, most=20)
            assert (len(more), statuses) == (20, {200})
            note_figures(outages=1, acknowledged=len(acknowledged) + len(more), lost=0)


async def until_refused(service: Service, most: int = 10_000) -> tuple[list[str], set[int]]:
    """Post large messages until one is refused; returns what was acknowledged, and the answers seen."""
    acknowledged: list[str] = []
    statuses: set[int] = set()
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        for n in range(most):
            mid = f"m_{most}_{n}"
            body: Any = text_delivery(PAGE, "p", mid, f"text of {mid}").replace(b"{", b"{" + b" " * 20_000, 1)
            response = await deliver(http, body)
            statuses.add(response.status_code)
            if response.status_code != 200:
                break
            acknowledged.append(mid)
    return acknowledged, statuses


FULL = """
    CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER full_disk BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION full_disk();
"""

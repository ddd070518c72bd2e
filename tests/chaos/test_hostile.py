"""Strangers at the door: forged, unsigned, slow, huge and broken requests. Acknowledged traffic goes on beside them."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.chaos.attacks import ATTACKS, idle_connections, many_connections
from tests.chaos.figures import note_figures
from tests.chaos.machines import ANSWER_WITHIN_SECONDS, Load, Service, assert_all_is_there

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.chaos.machines import Database

DURING = int(os.environ.get("MIRROR_OUTAGE", "0")) or 300
ATTACKERS = 8
MOST_GROWTH = 150 * 2**20  # bytes of memory
OPEN_FILES = 256  # that the service may have


class ServiceOfFewFiles(Service):
    command = (
        "-c",
        f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, ({OPEN_FILES},) * 2); import app.cli.main as m; m.main()",
        "serve",
    )


@asynccontextmanager
async def attacked(service: Service, *attacks: Callable[[Service], Awaitable[None]]) -> AsyncIterator[None]:
    """Let some attackers of each kind do what they can, for as long as the context is open."""
    async with AsyncExitStack() as stack:
        tasks = [asyncio.ensure_future(attack(service)) for attack in attacks for _ in range(ATTACKERS)]

        async def end() -> None:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, (asyncio.CancelledError, OSError, httpx.TransportError)), outcome

        stack.push_async_callback(end)
        yield


def memory(pid: int) -> int:
    """Bytes that a process holds in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_acknowledged_traffic_goes_on_beside(
    attack: Callable[[Service], Awaitable[None]], service_to_attack: Service, attacked_server: Database
) -> None:
    service = service_to_attack
    # then one that has just come in may be sent away; it comes again
    crowded = attack in {many_connections, idle_connections}
    async with Load(service, first=service.numbers(), is_new=crowded) as load:
        await load.has_acknowledged(50)
        before = memory(service.process.pid)
        async with attacked(service, attack):
            await load.has_acknowledged(DURING)
        grown = memory(service.process.pid) - before
    assert set(load.refused) <= ({408} if crowded else set())
    assert load.broken + len(load.refused) <= (len(load.acknowledged) if crowded else 0)
    assert load.slowest < ANSWER_WITHIN_SECONDS
    assert grown < MOST_GROWTH
    await service.is_drained()
    await assert_all_is_there(attacked_server, load.acknowledged)
    assert await attacked_server.fetch("SELECT mid FROM messages WHERE mid LIKE 'm_forged%'") == []
    note_figures(attacks=1, acknowledged=len(load.acknowledged), lost=0)


@pytest.fixture(scope="module")
async def attacked_server(own_server: Database) -> Database:
    await own_server.start()
    await own_server.empty()
    return own_server


@pytest.fixture(scope="module")
async def service_to_attack(
    attacked_server: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """One service for all attacks: it has to survive them."""
    folder = tmp_path_factory.mktemp("attacked")
    async with ServiceOfFewFiles(folder, attacked_server.dsn, LOG_LEVEL="error") as service:
        yield service

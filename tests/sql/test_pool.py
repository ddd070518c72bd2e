from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from sql.pool import ASK_AFTER_SECONDS, GONE_AFTER_SECONDS, connect, open_pool
from tests.gateway import gateway

if TYPE_CHECKING:
    from sql.pool import Pool

WITHIN_SECONDS = 30.0  # else for ever


async def test_a_transaction_left_open_is_rolled_back_at_release(database: str) -> None:
    async with open_pool(database, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.execute("INSERT INTO tags (name) VALUES ('left open')")
        assert await pool.fetchval("SELECT count(*) FROM tags") == 0


async def test_every_connection_waits_for_the_disk_whatever_the_servers_default(database: str) -> None:
    async with open_pool(database, min_size=1, max_size=1) as pool:
        assert await pool.fetchval("SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'") == "on"


async def test_the_end_of_a_host_that_is_gone_without_a_word_is_noticed(database: str) -> None:
    async with gateway(database) as way:
        connection = await connect(way.dsn)
        transport = connection._transport  # type: ignore[attr-defined] # nobody else has it
        connected: socket.socket = transport.get_extra_info("socket")
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        silence = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        every = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        times = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        assert (silence, silence + every * times) == (ASK_AFTER_SECONDS, GONE_AFTER_SECONDS)
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == GONE_AFTER_SECONDS * 1000
        await connection.close()


async def test_who_gives_up_on_a_query_of_a_server_that_stands_still_is_free(database: str) -> None:
    holding = asyncio.Event()

    async def ask(pool: Pool) -> None:
        async with pool.acquire() as connection:
            holding.set()
            await connection.fetchval("SELECT 1")

    async with gateway(database) as way, open_pool(way.dsn, min_size=1, max_size=1) as pool:
        way.freeze()
        asking = asyncio.create_task(ask(pool))
        await holding.wait()  # and on to where it waits for an answer
        asking.cancel()
        done, _ = await asyncio.wait({asking}, timeout=WITHIN_SECONDS)
        way.thaw()
        assert done
        assert await pool.fetchval("SELECT 2") == 2

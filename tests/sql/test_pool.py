from __future__ import annotations

from sql.pool import open_pool


async def test_a_transaction_left_open_is_rolled_back_at_release(database: str) -> None:
    async with open_pool(database, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.execute("INSERT INTO tags (name) VALUES ('left open')")
        assert await pool.fetchval("SELECT count(*) FROM tags") == 0


async def test_every_connection_waits_for_the_disk_whatever_the_servers_default(database: str) -> None:
    async with open_pool(database, min_size=1, max_size=1) as pool:
        assert await pool.fetchval("SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'") == "on"

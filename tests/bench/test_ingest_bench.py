from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
import uvicorn

from app.webhook.delivery_reader import DeliveryReader
from app.webhook.durable import Durable
from app.webhook.group_commit import GroupCommit
from app.webhook.receiver import Receiver
from sql.ingest import Ingestor
from sql.rows import Conversation, Rows
from sql.spool import Spool
from sql.upsert import upsert
from tests.bench import bodies
from tests.bench.ingest import stored_as_sent, without_feed
from tests.bench.load import send, write_requests
from tests.bench.serving import SECRET
from tests.bench.table import Measure, Target, judge

if TYPE_CHECKING:
    from pathlib import Path

    from sql.pool import Pool
    from sql.upsert import Connection

SENT = range(bodies.REACTS_TO, bodies.REACTS_TO + 420)


async def test_every_body_of_the_bench_is_accepted_and_stored_as_it_must_be(
    pool: Pool, connection: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "requests"
    assert write_requests(file, bodies.requests(SENT, "/webhook", SECRET.encode())) == len(SENT)
    async with GroupCommit(Ingestor(pool)) as group_commit:
        durable = Durable(group_commit, Spool(tmp_path / "spool", max_bytes=0), DeliveryReader())
        receiver = Receiver(durable, secrets=[SECRET], verify_tokens=["verify"])
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(receiver, lifespan="off", log_config=None, ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        load = await send(file, "127.0.0.1", listening.getsockname()[1], connections=8, seconds=60)
        server.should_exit = True
        await serving
    assert (load.sent, load.refused) == (len(SENT), [])
    verdicts = await stored_as_sent(connection, [SENT])
    assert [v for v in verdicts if not v.holds] == []
    one_more = await stored_as_sent(connection, [SENT, range(SENT.stop, SENT.stop + 1)])
    assert [v.claim for v in one_more if not v.holds] == ["deliveries stored = sent", "messages stored = sent"]


async def test_without_the_feed_what_is_written_is_told_nowhere_and_then_again(database: str, pool: Pool) -> None:
    async def write_and_count(psid: str) -> int:
        rows = Rows()
        rows.add([Conversation("101", psid, platform="messenger")])
        async with pool.acquire() as connection, connection.transaction():
            await upsert(connection, rows)
            return int(await connection.fetchval("SELECT count(*) FROM changes"))

    assert await write_and_count("1") == 1
    unfed = without_feed(database)
    await asyncio.to_thread(unfed.__enter__)
    assert await write_and_count("2") == 1
    await asyncio.to_thread(unfed.__exit__, None, None, None)
    assert await write_and_count("3") == 2


async def test_a_feed_that_is_told_all_the_same_is_nothing_to_compare_with(database: str, pool: Pool) -> None:
    unfed = without_feed(database)
    await asyncio.to_thread(unfed.__enter__)
    async with pool.acquire() as connection:
        today = await connection.fetchval("SELECT current_date")
        await connection.execute("SELECT make_day_partition('changes', $1)", today)
        await connection.execute(
            "INSERT INTO changes (day, kind, page_id, key) VALUES ($1, 'page', '101', '101')", today
        )
    with pytest.raises(RuntimeError, match="1 changes were told of"):
        await asyncio.to_thread(unfed.__exit__, None, None, None)


def test_of_twenty_bodies_sixteen_are_texts_two_echoes_one_a_reaction_and_one_a_receipt() -> None:
    sent = [bodies.body(n) for n in range(bodies.REACTS_TO, bodies.REACTS_TO + 20)]
    echoes, reactions, reads = (
        sum(key in body for body in sent) for key in (b'"is_echo"', b'"reaction":{', b'"read":{')
    )
    assert (20 - echoes - reactions - reads, echoes, reactions, reads) == (16, 2, 1, 1)
    assert all(body.isascii() for body in sent)


def test_a_target_is_judged_by_the_median_of_the_rounds_ratios() -> None:
    slow, fast = [Measure(per_second, 1, 1) for per_second in (10, 20, 10)], [Measure(40, 1, 1)] * 3
    rows = {"slow": slow, "fast": fast}
    assert [v.holds for v in judge(rows, [Target("fast", "slow", 4), Target("fast", "slow", 4.1)])] == [True, False]

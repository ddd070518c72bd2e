from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import uvicorn

from app.webhook.delivery_reader import DeliveryReader
from app.webhook.durable import Durable
from app.webhook.group_commit import GroupCommit
from app.webhook.projection import Door
from app.webhook.receiver import Receiver
from sql.ingest import Ingestor
from sql.pool import open_pool
from sql.rows import Conversation, Rows
from sql.spool import Spool
from sql.upsert import upsert
from tests.bench import bodies
from tests.bench.feed import UNFED_PATH, mute_feed, nothing_told
from tests.bench.ingest import in_turns, stored_as_sent
from tests.bench.load import send, write_requests
from tests.bench.serving import SECRET
from tests.bench.table import Measure, Target, judge

if TYPE_CHECKING:
    from pathlib import Path

    from sql.pool import Pool
    from sql.upsert import Connection

AT = datetime(2026, 1, 2, tzinfo=UTC)
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


async def test_who_looks_along_the_path_without_the_feed_writes_and_tells_nothing(
    database: str, connection: Connection
) -> None:
    async def write(number: int, search_path: str) -> None:
        rows = Rows()
        rows.add([Conversation("101", str(number), platform="messenger")])
        delivery = await DeliveryReader().read(Door(AT, AT.date(), UUID(int=number)), bodies.body(number))
        async with open_pool(database, min_size=0, server_settings={"search_path": search_path}) as pool:
            await Ingestor(pool).write([delivery])
            async with pool.acquire() as writer, writer.transaction():
                await upsert(writer, rows)

    await mute_feed(connection)
    async with nothing_told(connection):
        await write(SENT[0], UNFED_PATH)
    with pytest.raises(RuntimeError, match="3 changes were told of"):
        async with nothing_told(connection):
            await write(SENT[1], "public")
    assert await connection.fetchval("SELECT count(*) FROM conversations") == 4


def test_of_twenty_bodies_sixteen_are_texts_two_echoes_one_a_reaction_and_one_a_receipt() -> None:
    sent = [bodies.body(n) for n in range(bodies.REACTS_TO, bodies.REACTS_TO + 20)]
    echoes, reactions, reads = (
        sum(key in body for body in sent) for key in (b'"is_echo"', b'"reaction":{', b'"read":{')
    )
    assert (20 - echoes - reactions - reads, echoes, reactions, reads) == (16, 2, 1, 1)
    assert all(body.isascii() for body in sent)


def test_every_second_round_goes_the_other_way_round() -> None:
    assert [name for _, name in in_turns("ab", 4)] == list("abbaabba")


def test_a_target_is_judged_by_the_median_of_the_rounds_ratios() -> None:
    slow, fast = [Measure(per_second, 1, 1) for per_second in (10, 20, 10)], [Measure(40, 1, 1)] * 3
    rows = {"slow": slow, "fast": fast}
    assert [v.holds for v in judge(rows, [Target("fast", "slow", 4), Target("fast", "slow", 4.1)])] == [True, False]


def test_the_spread_of_the_ratios_is_told_beside_a_median_that_one_slow_round_does_not_move() -> None:
    rows = {"a": [Measure(n, 1, 1) for n in (99, 50, 98)], "b": [Measure(100, 1, 1)] * 3}
    assert judge(rows, [Target("a", "b", 0.9)]) == [("a >= 0.9 x b", "0.98 x, 3 times: 0.50 to 0.99", True)]

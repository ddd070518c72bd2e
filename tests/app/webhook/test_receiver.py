from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import structlog

from app.webhook import delivery_reader as reader_module
from app.webhook import group_commit as group_commit_module
from app.webhook import receiver as receiver_module
from app.webhook.receiver import MAX_BODY, Receiver
from app.webhook.signature import HEADER, sign
from sql.pool import Pool, open_pool
from tests.app.webhook.support import (
    PAGE,
    PREVIOUS_SECRET,
    PSID,
    SECRET,
    VERIFY_TOKEN,
    client_of,
    delivery_of,
    durable,
    escaped,
    post,
    signed,
    text_item,
    webhook,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from starlette.types import Message

CHALLENGE = "1158201444"


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the receiver logs."""
    capture = structlog.testing.LogCapture()
    for module in (receiver_module, reader_module):
        monkeypatch.setattr(module, "log", structlog.wrap_logger(structlog.PrintLogger(), processors=[capture]))
    return capture.entries  # type: ignore[return-value]


async def count(pool: Pool, table: str) -> int:
    return int(await pool.fetchval(f"SELECT count(*) FROM {table}"))


async def texts(pool: Pool) -> list[str]:
    return [r["text"] for r in await pool.fetch("SELECT text FROM messages ORDER BY page_id, mid")]


async def blocked(pool: Pool, writers: int = 1) -> None:
    """Return once so many backends wait for a lock."""
    while True:
        waiting = await pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        if waiting >= writers:
            return


class Exchange:
    """One request given to the receiver by hand, message by message."""

    def __init__(self, *messages: Message, headers: dict[str, str] | None = None, then_silence: bool = False) -> None:
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/webhook",
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
        }
        self.sent: list[Message] = []
        self.received = 0
        self._messages = list(messages)
        self._then_silence = then_silence

    async def receive(self) -> Message:
        if self.received == len(self._messages) and self._then_silence:
            await asyncio.Event().wait()
        self.received += 1
        return self._messages[self.received - 1]

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def with_receiver(self, pool: Pool) -> int | None:
        """Let the receiver answer; returns the status, None where it said nothing."""
        async with durable(pool) as made:
            receiver = Receiver(made, secrets=[SECRET], verify_tokens=[VERIFY_TOKEN])
            await receiver(self.scope, self.receive, self.send)
        return self.sent[0]["status"] if self.sent else None


def part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def handshake(**query: str) -> dict[str, str]:
    return {f"hub.{name}": value for name, value in query.items()}


async def test_the_handshake_gives_the_challenge_back(client: httpx.AsyncClient) -> None:
    answer = await client.get(
        "/webhook", params=handshake(mode="subscribe", verify_token=VERIFY_TOKEN, challenge=CHALLENGE)
    )
    assert (answer.status_code, answer.text) == (200, CHALLENGE)
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("challenge", ["CHALLENGE_ACCEPTED", "<script>alert(1)</script>", "ü 1"])
async def test_a_challenge_is_opaque_text(client: httpx.AsyncClient, challenge: str) -> None:
    answer = await client.get(
        "/webhook", params=handshake(mode="subscribe", verify_token=VERIFY_TOKEN, challenge=challenge)
    )
    assert answer.text == challenge
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("mode", "token"),
    [
        ("subscribe", "wrong"),
        ("subscribe", ""),
        ("subscribe", VERIFY_TOKEN + "x"),
        ("subscribe", VERIFY_TOKEN[:-1]),
        ("subscribe", "ünïcode"),
        ("unsubscribe", VERIFY_TOKEN),
        ("", VERIFY_TOKEN),
    ],
)
async def test_a_wrong_token_or_mode_is_403_and_gets_no_challenge(
    client: httpx.AsyncClient, mode: str, token: str
) -> None:
    answer = await client.get("/webhook", params=handshake(mode=mode, verify_token=token, challenge=CHALLENGE))
    assert answer.status_code == 403
    assert CHALLENGE not in answer.text
    assert VERIFY_TOKEN not in answer.text


@pytest.mark.parametrize("absent", ["mode", "verify_token", "challenge"])
async def test_a_handshake_that_lacks_a_parameter_is_400(client: httpx.AsyncClient, absent: str) -> None:
    query = {"mode": "subscribe", "verify_token": VERIFY_TOKEN, "challenge": CHALLENGE}
    del query[absent]
    assert (await client.get("/webhook", params=handshake(**query))).status_code == 400


async def test_without_a_verify_token_no_handshake_succeeds(pool: Pool) -> None:
    async with durable(pool) as keeping, client_of(Receiver(keeping, secrets=[SECRET], verify_tokens=[])) as made:
        query = handshake(mode="subscribe", verify_token="", challenge=CHALLENGE)
        assert (await made.get("/webhook", params=query)).status_code == 403


async def test_any_of_several_verify_tokens_is_accepted(pool: Pool) -> None:
    async with (
        durable(pool) as keeping,
        client_of(Receiver(keeping, secrets=[SECRET], verify_tokens=["new", "old"])) as made,
    ):
        for token in ("new", "old"):
            query = handshake(mode="subscribe", verify_token=token, challenge=CHALLENGE)
            assert (await made.get("/webhook", params=query)).text == CHALLENGE


async def test_a_signed_delivery_is_stored_and_acknowledged(client: httpx.AsyncClient, pool: Pool) -> None:
    answer = await post(client, delivery_of(text_item()))
    assert (answer.status_code, answer.text) == (200, "EVENT_RECEIVED")
    assert await texts(pool) == ["text 1"]


async def test_the_previous_secret_still_opens_the_door(client: httpx.AsyncClient, pool: Pool) -> None:
    body = escaped(delivery_of(text_item()))
    answer = await client.post("/webhook", content=body, headers=signed(body, PREVIOUS_SECRET))
    assert answer.status_code == 200
    assert await texts(pool) == ["text 1"]


@pytest.mark.parametrize("text", ["plain", 'Żółć 👩‍👩‍👧 / \\ " \u2028', "\u200a" * 50_000])
async def test_a_signature_holds_for_any_text(client: httpx.AsyncClient, pool: Pool, text: str) -> None:
    assert (await post(client, delivery_of(text_item(text=text)))).status_code == 200
    assert await texts(pool) == [text]


@pytest.mark.parametrize(
    "header",
    [None, "", "sha256=", "sha256=" + "0" * 64, "sha1=0123", "not a signature", "sha256=" + "z" * 64],
)
async def test_unsigned_or_wrongly_signed_is_403_stores_nothing_and_tells_nobody_the_body_or_signature(
    client: httpx.AsyncClient, pool: Pool, logged: list[Any], header: str | None
) -> None:
    body = escaped(delivery_of(text_item(text="private")))
    answer = await client.post("/webhook", content=body, headers={HEADER: header} if header is not None else {})
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert await count(pool, "webhook_deliveries") == 0
    assert await count(pool, "messages") == 0
    told = str(logged) + answer.text
    assert "delivery_not_signed" in told
    assert "private" not in told
    assert sign(body, SECRET.encode()).decode().removeprefix("sha256=") not in told


async def test_without_a_secret_nothing_is_let_in(pool: Pool) -> None:
    async with durable(pool) as keeping:
        receiver = Receiver(keeping, secrets=[], verify_tokens=[VERIFY_TOKEN])
        async with client_of(receiver) as made:
            body = escaped(delivery_of(text_item()))
            assert (await made.post("/webhook", content=body, headers=signed(body, ""))).status_code == 403
    assert await count(pool, "webhook_deliveries") == 0


async def test_a_body_in_many_parts_is_one_body(pool: Pool) -> None:
    body = escaped(delivery_of(text_item()))
    parts = [part(body[n : n + 7], more=True) for n in range(0, len(body), 7)]
    assert await Exchange(*parts, part(b"", more=False), headers=signed(body)).with_receiver(pool) == 200
    assert await texts(pool) == ["text 1"]


async def test_a_body_of_the_greatest_size_is_stored(client: httpx.AsyncClient, pool: Pool) -> None:
    text = "x" * (MAX_BODY - len(escaped(delivery_of(text_item(text="")))))
    body = escaped(delivery_of(text_item(text=text)))
    assert len(body) == MAX_BODY
    assert (await post(client, body)).status_code == 200
    assert await texts(pool) == [text]


async def test_a_body_declared_too_large_is_413_before_any_of_it_is_read(pool: Pool, logged: list[Any]) -> None:
    exchange = Exchange(headers={"content-length": str(MAX_BODY + 1)})
    assert await exchange.with_receiver(pool) == 413
    assert exchange.received == 0
    assert (b"connection", b"close") in exchange.sent[0]["headers"]
    assert [entry["event"] for entry in logged] == ["delivery_too_large"]


@pytest.mark.parametrize("declared", [None, "17", "many", "-1", "9" * 5_000])
async def test_a_body_that_turns_out_too_large_is_413_as_soon_as_it_is(pool: Pool, declared: str | None) -> None:
    half = b"x" * (MAX_BODY // 2)
    parts = [part(half, more=True), part(half, more=True), part(b"x", more=True), part(half, more=False)]
    exchange = Exchange(*parts, headers={"content-length": declared} if declared else {})
    assert await exchange.with_receiver(pool) == 413
    assert exchange.received <= 3
    assert await count(pool, "webhook_deliveries") == 0


async def test_a_body_in_one_part_that_is_too_large_is_413(pool: Pool) -> None:
    assert await Exchange(part(b"x" * (MAX_BODY + 1), more=False)).with_receiver(pool) == 413


@pytest.mark.parametrize("parts", [[], [part(b"{", more=True)]])
async def test_a_body_that_does_not_arrive_is_408(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, parts: list[Message]
) -> None:
    monkeypatch.setattr(receiver_module, "BODY_WITHIN_SECONDS", 0)
    exchange = Exchange(*parts, then_silence=True)
    assert await exchange.with_receiver(pool) == 408
    assert (b"connection", b"close") in exchange.sent[0]["headers"]
    assert await count(pool, "webhook_deliveries") == 0


@pytest.mark.parametrize("parts", [[], [part(b"{", more=True)]])
async def test_a_client_that_goes_away_before_its_body_is_whole_leaves_nothing(
    pool: Pool, parts: list[Message]
) -> None:
    exchange = Exchange(*parts, {"type": "http.disconnect"})
    assert await exchange.with_receiver(pool) is None
    assert await count(pool, "webhook_deliveries") == 0


async def test_nobody_is_told_200_before_the_commit(client: httpx.AsyncClient, pool: Pool) -> None:
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE webhook_deliveries IN EXCLUSIVE MODE")
        answer = asyncio.create_task(post(client, delivery_of(text_item())))
        await blocked(pool)
        assert not answer.done()
        assert await texts(pool) == []
        await transaction.rollback()
        assert (await answer).status_code == 200
        assert await texts(pool) == ["text 1"]


async def test_without_a_spool_a_database_that_does_not_commit_in_time_is_503_and_is_used_again_later(
    client: httpx.AsyncClient, pool: Pool, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE webhook_deliveries IN EXCLUSIVE MODE")
        with monkeypatch.context() as hurried:
            hurried.setattr(group_commit_module, "COMMIT_WITHIN_SECONDS", 0.05)
            answer = await post(client, delivery_of(text_item(text="private")))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "private" not in str(logged) + answer.text
        await transaction.rollback()
    assert (await post(client, delivery_of(text_item(2)))).status_code == 200
    assert "text 2" in await texts(pool)


async def test_without_a_spool_a_full_queue_is_503(
    client: httpx.AsyncClient, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit_module, "MAX_QUEUE_BYTES", 100)
    answer = await post(client, delivery_of(text_item()))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert await count(pool, "webhook_deliveries") == 0


async def test_without_a_spool_a_database_that_is_away_is_503_and_its_return_is_noticed(
    client: httpx.AsyncClient, pool: Pool, server: str
) -> None:
    assert (await post(client, delivery_of(text_item(1)))).status_code == 200
    name = await pool.fetchval("SELECT current_database()")
    admin = await asyncpg.connect(server)
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await admin.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    answer = await post(client, delivery_of(text_item(2)))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await admin.close()
    assert (await post(client, delivery_of(text_item(3)))).status_code == 200
    assert await texts(pool) == ["text 1", "text 3"]


async def test_without_a_spool_a_server_that_refuses_connections_is_503(server: str) -> None:
    async with open_pool(server, min_size=0, max_size=1) as pool:
        await pool.close()
        async with webhook(pool) as made:
            assert (await post(made, delivery_of(text_item()))).status_code == 503


async def test_many_at_once_are_each_stored_once(client: httpx.AsyncClient, pool: Pool) -> None:
    deliveries = [delivery_of(text_item(n)) for n in range(60)]
    answers = await asyncio.gather(*(post(client, d) for d in [*deliveries, *deliveries]))
    assert {answer.status_code for answer in answers} == {200}
    assert await count(pool, "webhook_deliveries") == 120
    assert await texts(pool) == [f"text {n}" for n in range(60)]


async def test_every_delivery_has_an_identity_of_its_own(client: httpx.AsyncClient, pool: Pool) -> None:
    for _ in range(3):
        await post(client, delivery_of(text_item()))
    rows = await pool.fetch("SELECT id, received_at FROM webhook_deliveries ORDER BY received_at")
    assert len({r["id"] for r in rows}) == 3
    assert sorted(r["id"] for r in rows) == [r["id"] for r in rows], "an id sorts by its time"
    assert {r["id"].version for r in rows} == {7}


async def test_a_row_tells_the_delivery_that_it_came_from(client: httpx.AsyncClient, pool: Pool) -> None:
    await post(client, delivery_of(text_item()))
    row = await pool.fetchrow("SELECT m.webhook_seen_at, m.delivery_day, m.delivery_id FROM messages AS m")
    assert row is not None
    delivery = await pool.fetchrow("SELECT received_at, day, id FROM webhook_deliveries")
    assert tuple(row) == tuple(delivery or ())


async def test_a_page_that_nobody_added_is_stored_all_the_same(client: httpx.AsyncClient, pool: Pool) -> None:
    item = text_item() | {"recipient": {"id": "999"}}
    assert (await post(client, delivery_of(item, page_id="999"))).status_code == 200
    assert await pool.fetchval("SELECT psid FROM conversations WHERE page_id = '999'") == PSID
    assert await count(pool, "facebook_pages") == 0


async def test_an_unknown_key_is_told_once(client: httpx.AsyncClient, logged: list[Any]) -> None:
    for n in range(3):
        await post(client, delivery_of(text_item(n) | {"telepathy": {"of": "private"}}))
    told = [entry for entry in logged if entry["event"] == "unknown_item"]
    assert [entry["key"] for entry in told] == ["telepathy"]
    assert "private" not in str(told)


async def test_dead_letters_are_told_without_their_content(client: httpx.AsyncClient, logged: list[Any]) -> None:
    await post(client, delivery_of(text_item(1, mid=None, text="private")))
    assert [entry["event"] for entry in logged] == ["dead_letters"]
    assert "private" not in str(logged)


async def test_the_person_of_an_echo_and_of_a_message_share_a_conversation(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    echo = text_item(2, is_echo=True) | {"sender": {"id": PAGE}, "recipient": {"id": PSID}}
    await asyncio.gather(post(client, delivery_of(text_item(1))), post(client, delivery_of(echo)))
    assert await count(pool, "conversations") == 1
    assert await pool.fetchval("SELECT array_agg(direction ORDER BY mid) FROM messages") == ["inbound", "outbound"]

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from simulator import Item, Life, Sender, World
from simulator.body import envelope, escaped, signature
from simulator.sender import SenderError
from tests.simulator.conftest import SECRET

if TYPE_CHECKING:
    from simulator import TurnedClock

URL = "https://mirror.test/webhook"


class Endpoint:
    """Takes deliveries; answers with `statuses` in turn, then 200."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.statuses: list[int] = []
        self.always: int | None = None
        self.at_once = self.most_at_once = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        body = request.content
        # an independent check: the digest by hand, from RFC 2104, over the raw bytes
        key = SECRET.encode().ljust(64, b"\0")
        inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + body).digest()
        outer = hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).hexdigest()
        assert request.headers["x-hub-signature-256"] == f"sha256={outer}"
        status = self.always or (self.statuses.pop(0) if self.statuses else 200)
        if status == 200:
            self.bodies.append(body)
        return httpx.Response(status)

    def entries(self) -> list[dict[str, Any]]:
        return [entry for body in self.bodies for entry in json.loads(body)["entry"]]

    def values(self) -> list[Any]:
        lists = ("messaging", "standby", "changes", "calls")
        return [value for entry in self.entries() for via in lists for value in entry.get(via, [])]


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


def sender_to(endpoint: Endpoint, **options: Any) -> Sender:
    http = httpx.AsyncClient(transport=httpx.MockTransport(endpoint))
    return Sender(http, URL, SECRET, **options)


def happenings(world: World, count: int = 200) -> list[Item]:
    life = Life(world, seed=1)
    items: list[Item] = []
    while len(items) < count:
        items += life.happen()
    return items[:count]


def test_a_body_is_escaped_as_meta_does() -> None:
    value = {"text": 'äöå 😀 https://x/y \u200b"\\\n', "n": 1, "f": 12.5, "none": None, "t": True}
    body = escaped(value)
    text = rb"\u00e4\u00f6\u00e5 \ud83d\ude00 https:\/\/x\/y \u200b\"\\\n"
    assert body == b'{"text":"' + text + b'","n":1,"f":12.5,"none":null,"t":true}'
    assert json.loads(body) == value


def test_the_signature_is_that_of_rfc_4231() -> None:
    # test case 2 of RFC 4231
    right = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert signature(b"what do ya want for nothing?", "Jefe") == f"sha256={right}"


def test_a_signature_over_the_unescaped_text_differs() -> None:
    body = escaped({"text": "ä/"})
    plain = json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode()
    assert signature(body, SECRET) != "sha256=" + hmac.new(SECRET.encode(), plain, "sha256").hexdigest()


async def test_every_item_arrives_once_and_in_order(world: World, endpoint: Endpoint) -> None:
    items = happenings(world)
    sender = sender_to(endpoint, world=world)
    await sender.send(items)
    assert endpoint.values() == [item.value for item in items]
    assert (sender.counts.items, sender.counts.acknowledged, sender.counts.posted) == (200, 200, 200)
    assert endpoint.most_at_once == 1


async def test_the_envelope_names_page_time_and_list(world: World, endpoint: Endpoint, clock: TurnedClock) -> None:
    page_id = world.pages[0].id
    sender = sender_to(endpoint, now=clock)
    psid = world.somebody(page_id)
    items = world.person_sends(page_id, psid) + world.event(page_id, "inbox_label", psid) + world.event(page_id, "call")
    world.hand_over(page_id, psid)
    items += world.person_sends(page_id, psid)
    await sender.send(items)
    assert {json.loads(body)["object"] for body in endpoint.bodies} == {"page"}
    now = int(clock().timestamp())
    shapes = [(e["id"], e["time"], (e.keys() - {"id", "time"}).pop()) for e in endpoint.entries()]
    assert shapes == [
        (page_id, now * 1000, "messaging"),
        (page_id, now, "changes"),
        (page_id, now, "calls"),
        (page_id, now * 1000, "standby"),
    ]


async def test_a_batch_holds_items_of_several_pages(world: World, endpoint: Endpoint) -> None:
    items = happenings(world, 1000)
    await sender_to(endpoint, batch=1000).send(items)
    (body,) = endpoint.bodies
    assert {entry["id"] for entry in json.loads(body)["entry"]} == {page.id for page in world.pages}
    assert sorted(map(str, endpoint.values())) == sorted(str(item.value) for item in items)


def test_entries_of_one_page_and_list_may_be_shared(world: World) -> None:
    one, other = (page.id for page in world.pages)
    items = [i for page_id in (one, one, other, one) for i in world.person_sends(page_id)]
    entries = envelope(items, 1, share_entries=True)["entry"]
    assert [(e["id"], len(e["messaging"])) for e in entries] == [(one, 2), (other, 1), (one, 1)]
    assert len(envelope(items, 1)["entry"]) == 4


async def test_a_burst_is_told_in_deliveries_of_a_thousand_entries_whatever_the_batch(
    world: World, endpoint: Endpoint
) -> None:
    items = happenings(world, 1500)
    sender = sender_to(endpoint, world=world, withhold=1, batch=2)
    await sender.burst(items)
    assert [len(json.loads(body)["entry"]) for body in endpoint.bodies] == [1000, 500]
    assert endpoint.values() == [item.value for item in items]
    world.pages[0].subscribed_fields = None
    await sender.burst(items)
    assert sender.counts.unsubscribed == sum(item.page_id == world.pages[0].id for item in items)


async def test_withheld_items_never_arrive_and_all_others_do(world: World, endpoint: Endpoint) -> None:
    items = happenings(world, 500)
    sender = sender_to(endpoint, withhold=0.1)
    await sender.send(items)
    lost = set(map(id, sender.withheld_items))
    assert 25 < len(lost) < 80
    assert sender.counts.withheld == len(lost)
    assert endpoint.values() == [item.value for item in items if id(item) not in lost]


async def test_repeated_deliveries_arrive_twice(world: World, endpoint: Endpoint) -> None:
    items = happenings(world, 300)
    sender = sender_to(endpoint, repeat=0.2)
    await sender.send(items)
    times = Counter(map(str, endpoint.values()))
    assert set(times) == {str(item.value) for item in items}
    assert 30 < sender.counts.repeated < 100
    assert len(endpoint.values()) == 300 + sender.counts.repeated


async def test_reordered_items_arrive_late_and_none_is_lost(world: World, endpoint: Endpoint) -> None:
    items = happenings(world, 300)
    sender = sender_to(endpoint, reorder=0.2)
    for item in items:
        await sender.send([item])
    await sender.flush()
    arrived = [str(value) for value in endpoint.values()]
    sent = [str(item.value) for item in items]
    assert arrived != sent
    assert sorted(arrived) == sorted(sent)
    assert 30 < sender.counts.reordered < 100


async def test_the_same_seed_loses_repeats_and_reorders_the_same(world: World) -> None:
    items = happenings(world, 200)
    runs = []
    for _ in range(2):
        endpoint = Endpoint()
        sender = sender_to(endpoint, withhold=0.1, repeat=0.1, reorder=0.1, batch=3, seed=5)
        for n in range(0, 200, 10):
            await sender.send(items[n : n + 10])
        await sender.flush()
        runs.append(endpoint.values())
    assert runs[0] == runs[1]


async def test_several_deliveries_can_be_under_way_at_once(world: World, endpoint: Endpoint) -> None:
    await sender_to(endpoint, concurrency=8).send(happenings(world, 100))
    assert 1 < endpoint.most_at_once <= 8
    assert len(endpoint.values()) == 100


async def test_a_failed_delivery_is_tried_again_at_once(world: World, endpoint: Endpoint) -> None:
    endpoint.statuses = [500, 403, 503]
    sender = sender_to(endpoint)
    assert await sender.deliver(happenings(world, 2))
    assert (sender.counts.posted, sender.counts.failed, sender.counts.acknowledged) == (4, 3, 2)
    assert sender.failures == {"HTTP 500": 1, "HTTP 403": 1, "HTTP 503": 1}


async def test_a_delivery_that_keeps_failing_is_tried_ever_later(
    world: World, endpoint: Endpoint, clock: TurnedClock
) -> None:
    endpoint.always = 500
    sender = sender_to(endpoint, now=clock)
    assert not await sender.deliver(happenings(world, 1))
    assert (sender.pending, sender.counts.posted) == (1, 4)
    tries = []
    for second in range(1, 400):
        clock.advance(1)
        before = sender.counts.posted
        await sender.retry_due()
        if sender.counts.posted > before:
            tries.append(second)
    assert tries == [10, 30, 70, 150, 310]
    endpoint.always = None
    clock.advance(300)
    assert await sender.retry_due() == 1
    assert (sender.pending, sender.counts.acknowledged, len(endpoint.values())) == (0, 1, 1)


async def test_an_endpoint_that_takes_five_seconds_has_failed(world: World) -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    http = httpx.AsyncClient(transport=httpx.MockTransport(never))
    sender = Sender(http, URL, SECRET, deadline=0.01)
    assert sender.deadline != Sender(http, URL, SECRET).deadline == 5.0
    assert not await sender.deliver(happenings(world, 1))
    assert sender.failures == {"no answer within 0.01 seconds": 4}


async def test_a_page_that_fails_for_an_hour_is_unsubscribed_after_an_alert_at_15_minutes(
    world: World, endpoint: Endpoint, clock: TurnedClock
) -> None:
    page, other = world.pages
    endpoint.always = 503
    sender = sender_to(endpoint, world=world, now=clock)
    began = clock().timestamp()
    await sender.send(world.person_sends(page.id))
    for _ in range(66):
        clock.advance(60)
        await sender.retry_due()
    minutes = [(alert.kind, alert.page_id, round((alert.at - began) / 60)) for alert in sender.alerts]
    (kind, page_id, minute), (then, again, hour) = minutes
    assert (kind, page_id, then, again) == ("failing", page.id, "disabled", page.id)
    assert 15 <= minute <= 20
    assert 60 <= hour <= 65
    assert page.subscribed_fields is None
    assert other.subscribed_fields is not None
    endpoint.always = None
    clock.advance(600)
    await sender.retry_due()
    assert (sender.pending, sender.counts.dropped, sender.counts.acknowledged) == (0, 1, 0)
    await sender.send(world.person_sends(page.id) + world.person_sends(other.id))
    assert (sender.counts.unsubscribed, sender.counts.acknowledged) == (1, 1)
    page.subscribed_fields = {"messages"}
    await sender.send(world.person_sends(page.id) + world.page_sends(page.id))
    assert (sender.counts.unsubscribed, sender.counts.acknowledged) == (2, 2)


async def test_a_success_ends_the_hour(world: World, endpoint: Endpoint, clock: TurnedClock) -> None:
    page = world.pages[0]
    sender = sender_to(endpoint, world=world, now=clock)
    for _ in range(3):
        endpoint.always = 500
        await sender.send(world.person_sends(page.id))
        clock.advance(40 * 60)
        await sender.retry_due()
        endpoint.always = None
        clock.advance(300)
        await sender.retry_due()
    assert page.subscribed_fields is not None
    assert {alert.kind for alert in sender.alerts} == {"failing"}
    assert sender.counts.acknowledged == 3


async def test_acknowledged_items_are_told(world: World, endpoint: Endpoint) -> None:
    told: list[Item] = []
    items = happenings(world, 50)
    await sender_to(endpoint, withhold=0.2, on_acknowledged=told.append).send(items)
    assert [item.value for item in told] == endpoint.values()


async def test_the_handshake_is_won_by_whoever_gives_the_challenge_back() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        query = request.url.params
        if query["hub.mode"] == "subscribe" and query["hub.verify_token"] == "right":
            return httpx.Response(200, text=query["hub.challenge"])
        return httpx.Response(403)

    sender = Sender(httpx.AsyncClient(transport=httpx.MockTransport(answer)), URL, SECRET)
    assert await sender.handshake("right")
    assert not await sender.handshake("wrong")


async def test_the_retry_loop_runs_until_told_to_stop(world: World, endpoint: Endpoint, clock: TurnedClock) -> None:
    endpoint.always = 500
    sender = sender_to(endpoint, now=clock)
    await sender.deliver(happenings(world, 1))
    endpoint.always = None
    clock.advance(10)
    stop = asyncio.Event()
    sender.on_acknowledged = lambda _: stop.set()
    await sender.run(stop)
    assert sender.pending == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("withhold", -0.1), ("repeat", 1.1), ("reorder", 2), ("batch", 0), ("batch", 1001), ("concurrency", 0)],
)
def test_an_option_out_of_range_is_refused_by_name(endpoint: Endpoint, option: str, value: float) -> None:
    with pytest.raises(SenderError, match=option):
        sender_to(endpoint, **{option: value})


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://mirror.test/webhook", "http://", "http://[::1", "/webhook"])
def test_an_address_that_nothing_can_be_posted_to_is_refused(url: str) -> None:
    with pytest.raises(SenderError, match="such as http://127"):
        Sender(httpx.AsyncClient(), url, SECRET)


def test_without_a_secret_nothing_can_be_signed() -> None:
    with pytest.raises(SenderError, match="app_secret"):
        Sender(httpx.AsyncClient(), URL, "")

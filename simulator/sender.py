"""Delivers webhooks as Meta does: signed, within five seconds or again; and loses, repeats and reorders on purpose.

Documented (webhooks sheet, section 3): 5 seconds; a few more tries at once; an alert after 15 minutes of failure; after
an hour the Page is unsubscribed. Assumed: three more tries at once, then after 10 seconds, doubling up to 5 minutes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import httpx

from simulator.body import envelope, escaped, signature
from simulator.clock import Now, real_now
from simulator.dice import Dice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from simulator.items import Item
    from simulator.world import World

DEADLINE_SECONDS = 5.0
TRIES_AT_ONCE = 4
FIRST_WAIT, LONGEST_WAIT = 10.0, 300.0
ALERT_AFTER, UNSUBSCRIBE_AFTER = 15 * 60.0, 3600.0
MAX_BATCH = 1000
_MAX_HELD = 8  # how many deliveries a reordered item may fall behind


@dataclass(slots=True)
class Counts:
    """Of items: handed over, acknowledged, withheld, unsubscribed (not sent for want of a subscription), dropped.

    Of deliveries: posted (tries included), repeated, failed (tries that got no 200). `reordered`: items held back.
    """

    items: int = 0
    acknowledged: int = 0
    withheld: int = 0
    unsubscribed: int = 0
    dropped: int = 0
    reordered: int = 0
    posted: int = 0
    repeated: int = 0
    failed: int = 0


class Alert(NamedTuple):
    """What Meta tells the developer. `at` is in epoch seconds."""

    kind: Literal["failing", "disabled"]
    page_id: str
    at: float


@dataclass(slots=True)
class _Pending:
    """A delivery that got no 200 yet."""

    items: list[Item]
    share_entries: bool
    next_at: float
    wait: float = FIRST_WAIT


class SenderError(ValueError):
    """An option out of its range; the text names it."""


def is_web_address(text: str) -> bool:
    """Whether something can be posted to this."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in {"http", "https"} and bool(url.host)


@dataclass(slots=True)
class Sender:
    """Posts items to `url`.

    `withhold`, `repeat`, `reorder` are probabilities for each item (`repeat`: delivery), thrown from `seed`; a
    withheld item is lost for good. Up to `batch` items that are sent together share a delivery, whatever their Pages.
    `concurrency` deliveries are under way at once; 1 keeps the order. `now` is the clock of retries and alerts: unless
    given, the world's, else the real one. With a `world`, only what its Pages are subscribed to is sent, and a Page
    that fails for an hour loses its subscription.
    `on_acknowledged` is told each item of a delivery that got its 200; `withheld_items` are those that were lost;
    `failures` counts tries that failed, by what was the matter.
    """

    http: httpx.AsyncClient
    url: str
    app_secret: str
    world: World | None = None
    seed: int = 0
    withhold: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    batch: int = 1
    concurrency: int = 1
    now: Now | None = None
    deadline: float = DEADLINE_SECONDS
    on_acknowledged: Callable[[Item], None] | None = None
    counts: Counts = field(default_factory=Counts)
    alerts: list[Alert] = field(default_factory=list)
    withheld_items: list[Item] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    _held: list[tuple[int, Item]] = field(default_factory=list)
    _pending: list[_Pending] = field(default_factory=list)
    _failing_since: dict[str, float] = field(default_factory=dict)
    _dice: Dice = field(init=False)
    _now: Now = field(init=False)
    _slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be.

        Raises:
            SenderError: an option is out of its range.

        """
        for name in ("withhold", "repeat", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise SenderError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if not 1 <= self.batch <= MAX_BATCH:
            raise SenderError(f"batch must be from 1 to {MAX_BATCH}, not {self.batch}")
        if self.concurrency < 1:
            raise SenderError(f"concurrency must be at least 1, not {self.concurrency}")
        if not self.app_secret:
            raise SenderError("app_secret is empty: nothing could be signed")
        if not is_web_address(self.url):
            raise SenderError(f"webhooks go to an address such as http://127.0.0.1:8000/webhook, not to {self.url}")
        self._dice = Dice(self.seed, 5)
        self._now = self.now or (self.world.now if self.world is not None else real_now)
        self._slots = asyncio.Semaphore(self.concurrency)

    @property
    def pending(self) -> int:
        """Deliveries that wait for another try."""
        return len(self._pending)

    async def handshake(self, verify_token: str) -> bool:
        """Ask the endpoint to prove that it is meant, as when its address is configured (webhooks sheet, section 1)."""
        challenge = str(self._dice.below(10**10))
        query = {"hub.mode": "subscribe", "hub.challenge": challenge, "hub.verify_token": verify_token}
        response = await self.http.get(self.url, params=query)
        return response.status_code == 200 and response.text == challenge

    async def send(self, items: Iterable[Item]) -> None:
        """Deliver items, but for what is withheld, held back, or not subscribed to; returns when all was tried."""
        ready = self._released()
        for item in items:
            self.counts.items += 1
            if not self._is_subscribed(item):
                self.counts.unsubscribed += 1
            elif self._dice.chance(self.withhold):
                self.counts.withheld += 1
                self.withheld_items.append(item)
            elif self._dice.chance(self.reorder):
                self.counts.reordered += 1
                self._held.append((1 + self._dice.below(_MAX_HELD), item))
            else:
                ready.append(item)
        await self._send_all(ready)

    async def flush(self) -> None:
        """Deliver what is held back for reordering."""
        ready = [item for _, item in self._held]
        self._held.clear()
        await self._send_all(ready)

    async def burst(self, items: Sequence[Item]) -> None:
        """Deliver items, 1,000 entries at a time, as in a rush: none is withheld or held back."""
        ready = [item for item in items if self._is_subscribed(item)]
        self.counts.items += len(items)
        self.counts.unsubscribed += len(items) - len(ready)
        for n in range(0, len(ready), MAX_BATCH):
            await self.deliver(ready[n : n + MAX_BATCH], share_entries=False)

    def _released(self) -> list[Item]:
        self._held = [(turns - 1, item) for turns, item in self._held]
        ready = [item for turns, item in self._held if turns <= 0]
        self._held = [held for held in self._held if held[0] > 0]
        return ready

    async def _send_all(self, items: list[Item]) -> None:
        batches: list[Sequence[Item]] = [items[n : n + self.batch] for n in range(0, len(items), self.batch)]
        plan: list[Sequence[Item]] = []
        for batch in batches:
            plan.append(batch)
            if self._dice.chance(self.repeat):
                self.counts.repeated += 1
                plan.append(batch)
        if self.concurrency == 1:
            for batch in plan:
                await self.deliver(batch)
        else:
            await asyncio.gather(*(self.deliver(batch) for batch in plan))

    async def deliver(self, items: Sequence[Item], *, share_entries: bool | None = None) -> bool:
        """Post items as one delivery, a few times at once if need be; True when it was acknowledged.

        One that was not waits for `retry_due`. Neighbours of one Page share an entry, if `share_entries`; by chance, if
        nothing is said of it.
        """
        if share_entries is None:
            share_entries = self._dice.chance(0.5)
        async with self._slots:
            for _ in range(TRIES_AT_ONCE):
                if await self._post(items, share_entries=share_entries):
                    self._succeeded(items)
                    return True
        self._failed(items)
        remaining = [item for item in items if self._is_subscribed(item)]
        self.counts.dropped += len(items) - len(remaining)
        if remaining:
            self._pending.append(_Pending(remaining, share_entries, self._now().timestamp() + FIRST_WAIT))
        return False

    async def retry_due(self) -> int:
        """Try again what is due by the clock; returns how many deliveries were acknowledged."""
        now = self._now().timestamp()
        due = [pending for pending in self._pending if pending.next_at <= now]
        self._pending = [pending for pending in self._pending if pending.next_at > now]
        done = 0
        for pending in due:
            items = [item for item in pending.items if self._is_subscribed(item)]
            self.counts.dropped += len(pending.items) - len(items)
            if not items:
                continue
            async with self._slots:
                is_done = await self._post(items, share_entries=pending.share_entries)
            if is_done:
                self._succeeded(items)
                done += 1
                continue
            self._failed(items)
            wait = min(pending.wait * 2, LONGEST_WAIT)
            self._pending.append(_Pending(items, pending.share_entries, self._now().timestamp() + wait, wait))
        return done

    async def run(self, stop: asyncio.Event) -> None:
        """Retry every second until told to stop."""
        while not stop.is_set():
            await self.retry_due()
            try:
                async with asyncio.timeout(1.0):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _post(self, items: Sequence[Item], *, share_entries: bool) -> bool:
        sent_at_ms = int(self._now().timestamp() * 1000)  # of this try: it may differ between tries (GR)
        body = escaped(envelope(items, sent_at_ms, share_entries=share_entries))
        headers = {
            "content-type": "application/json",
            "user-agent": "facebookexternalua",
            "x-hub-signature-256": signature(body, self.app_secret),
        }
        self.counts.posted += 1
        try:
            async with asyncio.timeout(self.deadline):
                response = await self.http.post(self.url, content=body, headers=headers)
        except (TimeoutError, httpx.TimeoutException):
            failure = f"no answer within {self.deadline:g} seconds"
        except httpx.HTTPError as error:
            failure = type(error).__name__
        else:
            if response.status_code == 200:
                return True
            failure = f"HTTP {response.status_code}"
        self.counts.failed += 1
        self.failures[failure] += 1
        return False

    def _is_subscribed(self, item: Item) -> bool:
        page = self.world.find_page(item.page_id) if self.world is not None else None
        return page is None or page.is_subscribed(item.field)

    def _succeeded(self, items: Sequence[Item]) -> None:
        self.counts.acknowledged += len(items)
        for item in items:
            self._failing_since.pop(item.page_id, None)
            if self.on_acknowledged is not None:
                self.on_acknowledged(item)

    def _failed(self, items: Sequence[Item]) -> None:
        now = self._now().timestamp()
        for page_id in {item.page_id for item in items}:
            age = now - self._failing_since.setdefault(page_id, now)
            alerted = {(alert.kind, alert.page_id) for alert in self.alerts if alert.at >= now - age}
            if age >= ALERT_AFTER and ("failing", page_id) not in alerted:
                self.alerts.append(Alert("failing", page_id, now))
            if age >= UNSUBSCRIBE_AFTER and ("disabled", page_id) not in alerted:
                self.alerts.append(Alert("disabled", page_id, now))
                page = self.world.find_page(page_id) if self.world is not None else None
                if page is not None:
                    page.subscribed_fields = None

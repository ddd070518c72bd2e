"""A play of chance: what happens on Facebook, how webhooks of it arrive, and what is synced, interleaved at will.

A step is a tuple: what to do and numbers that say to what (`steps` draws them). Whatever the steps are, `settle` lets
the rest arrive, and the mirror must then be what `verdict` says.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

from app.demo.run import Delivered
from reconciler.capabilities import SINCE
from simulator import Behaviour, Fault, Sender, WorldError
from simulator.events import KINDS
from simulator.message import REACTIONS
from sql.capabilities import Capability, put_capabilities
from sql.upsert import upsert
from tests.app.webhook.support import SECRET
from tests.chaos.door import Door
from tests.chaos.ledger import Ledger
from tests.chaos.steps import ABOUT_A_MESSAGE
from tests.chaos.verdict import Mirror
from tests.reconciler.stage import Killed, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from simulator import Item
    from sql.pool import Pool
    from sql.rows import Counts, Rows
    from sql.upsert import Connection
    from tests.chaos.door import When
    from tests.chaos.steps import Step

PATIENCE_SECONDS = 60  # this is not about speed
LAG_ALLOWANCE_SECONDS = 60
QUIET_SECONDS = 3 * 60
CALLS_A_NIGHT = 6
STOP_AFTER = 3  # so that a walk stops in a small world, too; where its order is none, as in earnest: 3 prove nothing
NIGHT = """
    INSERT INTO sync_runs (page_id, kind, requested_by, call_budget) VALUES ($1, 'audit', 'schedule', $2)
    ON CONFLICT DO NOTHING
"""


class Play:
    """Two Pages, two doors by which webhooks come in, and workers, all on one database."""

    def __init__(self, stage: Stage, doors: Sequence[Door]) -> None:
        self.stage, self.world = stage, stage.world
        self.delivered = Delivered()
        self.told: list[Item] = []
        self.done: Counter[str] = Counter()
        self.ledger = Ledger()
        for door in doors:
            self.ledger.watch(door.http)
        self._doors = doors
        self._senders = [
            Sender(
                door.http,
                "https://mirror.test/webhook",
                SECRET,
                now=self.world.now,
                deadline=PATIENCE_SECONDS,
                on_acknowledged=self._note,
            )
            for door in doors
        ]
        self._air: list[Item] = []
        self._owed: list[list[Item]] = []  # deliveries that were not answered: Facebook repeats them
        self._sent: list[list[Item]] = []
        self._recent: list[tuple[str, str, str]] = []
        self._turn = 0
        self._falls_in = 0
        self.unheard: set[str | None] = set()  # of which messages webhooks were lost

    @property
    def mirror(self) -> Mirror:
        """What there is to compare."""
        unheard = self.unheard | {item.mid for items in (self._air, *self._owed) for item in items}
        return Mirror(self.world, self.stage.pool, self.delivered, self.told, self.ledger, unheard)

    @property
    def is_spooling(self) -> bool:
        """Whether something that was acknowledged is not in Postgres yet."""
        return any(door.spooled for door in self._doors)

    def _note(self, item: Item) -> None:
        self.delivered.note(item)
        self.told.append(item)

    async def step(self, step: Step) -> None:
        """Do one step; one that can't be done now does nothing."""
        name, *values = step
        self.done[name] += 1
        await getattr(self, f"_do_{name}")(*values)

    async def settle(self) -> None:
        """Let everything that is under way arrive, and Graph show it."""
        self.stage.faults.clear()
        self.stage.graph.hooks.clear()
        while self._air:
            await self._do_arrive(0, 4)
        while self._owed:
            await self._do_repeat(0)
        await self._do_drain()
        while any(door.is_away or door.spooled for door in self._doors):
            await self._do_drain()
        self.stage.clock.advance(QUIET_SECONDS)

    async def sync(self, kind: str) -> None:
        """Let a run of this kind complete on every Page, as often as it takes for no conversation to be left."""
        for page in self.world.pages:
            for _ in range(6):
                run = await self.stage.sync(kind, page)
                self.stage.clock.advance(1)
                if (run["state"], run["failed_conversations"], run["error"]) == ("succeeded", 0, None):
                    break
            else:
                raise AssertionError(f"no {kind} run completes: {dict(run)}")

    async def _do_burst(self, happenings: Sequence[Step]) -> None:
        for happening in happenings:
            await self.step(happening)

    async def _do_happen(self, kind: str, k: int) -> None:
        page_id = self.world.pages[k % len(self.world.pages)].id
        try:
            items = self._happening(kind, k, page_id)
        except WorldError:  # a sixth edit, a message that was unsent meanwhile, nothing said yet
            return
        for item in items:
            if item.kind in {"message", "echo", "postback"} and item.psid is not None and item.mid is not None:
                self._recent.append((item.page_id, item.psid, item.mid))
        self._air += items

    def _happening(self, kind: str, k: int, page_id: str) -> list[Item]:
        world = self.world
        if kind not in ABOUT_A_MESSAGE:
            psids = [psid for page, psid, _ in self._recent if page == page_id]
            psid = psids[k % len(psids)] if psids and k % 3 else None
            simple: dict[str, Callable[[], list[Item]]] = {
                "person": lambda: world.person_sends(page_id, psid),
                "page": lambda: world.page_sends(
                    page_id, psid, app=("ours", "other", "inbox", None)[k % 4], metadata=f"ref-{k}" if k % 3 else None
                ),
                "attach": lambda: world.person_sends(page_id, psid, attachments=world.some_attachments()),
                "present": lambda: world.page_sends(page_id, psid, attachments=world.some_attachments(from_page=True)),
                "quick": lambda: world.person_sends(page_id, psid, quick_reply=f"QUICK_{k}"),
                "advert": lambda: world.person_sends(page_id, psid, referral={"ref": f"summer-{k}", "source": "ADS"}),
                "postback": lambda: world.postback(
                    page_id, psid, referral={"ref": f"link-{k}", "source": "SHORTLINK"} if k % 3 == 0 else None
                ),
                "unsupported": lambda: world.person_sends(page_id, psid, is_unsupported=True),
            }
            return simple[kind]()
        if not self._recent:
            raise WorldError("nothing was said yet")
        page_id, psid, mid = self._recent[-1 - k % len(self._recent)]
        about: dict[str, Callable[[], list[Item]]] = {
            "reply": lambda: world.person_sends(page_id, psid, reply_to=mid),
            "edit": lambda: world.edit(mid),
            "unsend": lambda: world.unsend(mid),
            "react": lambda: world.react(mid, tuple(REACTIONS)[k % len(REACTIONS)]),
            "unreact": lambda: world.unreact(mid),
            "read": lambda: world.read(page_id, psid),
            "receipt": lambda: world.delivery(page_id, psid),
            "pass": lambda: (
                world.take_back if world.is_handed_over(psid) else (world.hand_over, world.take_over)[k % 2]
            )(page_id, psid),
            "refer": lambda: world.refer(page_id, psid),
            "event": lambda: world.event(page_id, tuple(KINDS)[k % len(KINDS)], psid),
        }
        return about[kind]()

    async def _do_arrive(self, k: int, n: int) -> None:
        """Deliver some of what is in the air, whatever its order, as one delivery."""
        if self._air:
            first = k % len(self._air)
            items = self._air[first : first + n]
            del self._air[first : first + n]
            await self._post(items)

    async def _post(self, items: list[Item]) -> None:
        self._turn += 1
        try:
            assert await self._senders[self._turn % len(self._senders)].deliver(items), "a delivery was refused"
        except asyncio.CancelledError:  # with the worker in whose midst it came: nobody took the answer
            self._owed.append(items)
            raise
        self._sent.append(items)

    async def _do_lose(self, k: int) -> None:
        if self._air:
            self.unheard.add(self._air.pop(k % len(self._air)).mid)

    async def _do_repeat(self, k: int) -> None:
        if self._owed:
            await self._post(self._owed.pop(k % len(self._owed)))
        elif self._sent:
            await self._post(self._sent[k % len(self._sent)])

    async def _do_wait(self, seconds: float) -> None:
        self.stage.clock.advance(seconds)

    async def _do_trouble(self, fault: str, call: int, times: int) -> None:
        """Let the n-th call from now on go wrong, and some after it."""
        self.stage.faults.add(Fault(fault, first=call, times=times))

    async def _do_ill(self, k: int, fault: str, times: int) -> None:
        """Let a conversation not be read by itself for a while."""
        threads = [thread for page in self.world.pages for thread in self.world.threads(page)]
        self.stage.faults.add(Fault(fault, path=threads[k % len(threads)].thread_id, times=times))

    def _meanwhile(self, during: Sequence[tuple[int, Step]]) -> None:
        """Do steps in the midst of a walk, after its n-th call."""
        for call, step in during:
            self.stage.after_call(call, partial(self.step, step))

    def _window(self, kind: str) -> dict[str, Any]:
        if kind != "backfill":
            return {}
        return {"since": self.world.now() - timedelta(days=2), "until": self.world.now() - timedelta(seconds=30)}

    async def _do_sync(self, kind: str, during: Sequence[tuple[int, Step]]) -> None:
        self._meanwhile(during)
        for page in self.world.pages:
            if kind == "night":
                await self.stage.do(NIGHT, page.id, CALLS_A_NIGHT)
            else:
                await self.stage.ask(kind, page, **self._window(kind))
        await self._work()
        self.stage.graph.hooks.clear()

    async def _work(self) -> None:
        """Work until nothing is queued; a worker that gets killed is replaced when its leases have run out."""
        client = self.stage.client(lag_seconds=LAG_ALLOWANCE_SECONDS)
        async with self.stage.worker(client) as worker:
            await worker.wake()
            while places := set(worker._places):
                ended, _ = await asyncio.wait(places)
                if any(isinstance(place.exception(), Killed) for place in ended if not place.cancelled()):
                    self.done["killed"] += 1
                    break
                await worker.wake()
        await self.stage.expire_leases()
        await self.stage.do("DELETE FROM cooldowns")

    async def _do_kill(self, kind: str, call: int, during: Sequence[tuple[int, Step]]) -> None:
        """Kill whoever makes the n-th call; somebody else goes on."""
        self.stage.kill_before_call(call)
        await self._do_sync(kind, during)
        self.stage.between.before = None
        await self._work()

    async def _do_fall(self, kind: str, step: int) -> None:
        """Kill whoever stores the n-th step, in the midst of its transaction; somebody else goes on."""
        self._falls_in = step
        await self._do_sync(kind, [])
        self._falls_in = 0
        await self._work()

    async def upsert_or_fall(self, connection: Connection, rows: Rows) -> Counts:
        """What workers store their rows with."""
        done = await upsert(connection, rows)
        if self._falls_in:
            self._falls_in -= 1
            if not self._falls_in:
                raise Killed
        return done

    async def _do_rush(self, n: int, kind: str) -> None:
        """Let webhooks come by both doors at once, while workers sync."""
        items, self._air = self._air[:n], self._air[n:]
        again = self._sent[-2:]
        posts = [self._post([item]) for item in items] + [self._post(sent) for sent in again]
        await asyncio.gather(self._do_sync(kind, []), *posts)

    async def _do_away(self, door: int) -> None:
        """Let Postgres be away for the webhooks of a door: what comes by it is spooled until somebody drains."""
        self._doors[door].durable.went_away("the play says so")

    async def _do_doubt(self, door: int) -> None:
        """Let Postgres commit a door's next group, and nobody hear of it."""
        self._doors[door].ingestor.doubt()

    async def _do_crash(self, n: int, when: When, posts: int, is_other_first: bool) -> None:  # noqa: FBT001 - drawn
        """Kill a door while it stores what is posted, or what it has spooled; who posted will repeat it."""
        door = self._doors[n]
        self.done["crashed"] += 1
        if door.spooled:
            await door.crash(when, [self._drained(door)])
        else:
            items, self._air = self._air[:posts], self._air[posts:]
            done = await door.crash(when, [self._senders[n].deliver([item]) for item in items])
            self._sent += [[item] for item, is_done in zip(items, done, strict=True) if is_done]
            self._owed += [[item] for item, is_done in zip(items, done, strict=True) if not is_done]
        if is_other_first:
            await self._doors[1 - n].spool.adopt()
        await door.start_again()

    async def _drained(self, door: Door) -> bool:
        await door.drain.run_once()
        return True

    async def _do_drain(self) -> None:
        for door in self._doors:
            await door.spool.adopt()
            await door.drain.run_once()


@asynccontextmanager
async def play(
    pools: Sequence[Pool], folder: Path, seed: int, behaviour: dict[str, Any], **world: Any
) -> AsyncIterator[Play]:
    """Set a play up on an empty database; each pool is that of a door, and all doors spool into one folder."""
    async with AsyncExitStack() as stack:
        doors = [await stack.enter_async_context(Door(pool, folder / "spool")) for pool in pools]
        stage = Stage(pools[0], pages=2, seed=seed, behaviour=Behaviour(**behaviour), **world)
        stack.push_async_callback(stage.http.aclose)
        await stage.add_pages()
        if stage.behaviour.since in {"honoured", "refused"}:
            async with pools[0].acquire() as connection:
                for page in stage.world.pages:
                    await put_capabilities(connection, page.id, [Capability(SINCE, "honoured")])
        playing = Play(stage, doors)
        stack.enter_context(mock.patch("reconciler.steps.upsert", playing.upsert_or_fall))
        if stage.behaviour.order == "newest_first":
            stack.enter_context(mock.patch("reconciler.walk.STOP_AFTER", STOP_AFTER))
        yield playing

"""Life on the Pages: one thing after another that people and Pages do, in a realistic mixture."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from simulator.dice import Dice
from simulator.events import KINDS
from simulator.message import REACTIONS
from simulator.places import WorldError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.items import Item
    from simulator.world import World

RECENT = 200  # messages that something may still happen to


class Life:
    """Makes things happen in a world, on these Pages or on all; the same seed makes the same things happen."""

    def __init__(self, world: World, *, seed: int = 0, page_ids: Sequence[str] | None = None) -> None:
        self._world = world
        self._dice = Dice(seed, 77)
        self._page_ids = list(page_ids or (page.id for page in world.pages))
        self._recent: deque[tuple[str, str, str]] = deque(maxlen=RECENT)  # page_id, psid, mid
        shares: tuple[tuple[int, Callable[[str], list[Item]]], ...] = (
            (31, self._person_writes),
            (1, self._person_sends_something_unsupported),
            (5, self._person_attaches),
            (4, self._person_replies),
            (3, self._person_taps),
            (22, self._page_writes),
            (4, self._page_attaches),
            (7, self._person_reacts),
            (2, self._person_takes_reaction_back),
            (4, self._person_edits),
            (2, self._somebody_unsends),
            (5, self._person_reads),
            (5, self._device_receives),
            (1, self._conversation_changes_hands),
            (1, self._person_comes_by_link),
            (1, self._person_writes_to_an_ad),
            (1, self._new_person_gets_started),
            (1, self._something_else_happens),
        )
        self._mixture = [do for share, do in shares for _ in range(share)]

    def happen(self) -> list[Item]:
        """Let one thing happen; returns the webhook items it causes."""
        page_id = self._dice.pick(self._page_ids)
        try:
            items = self._dice.pick(self._mixture)(page_id)
        except WorldError:  # a sixth edit, a message that was unsent meanwhile, nothing said yet
            items = self._person_writes(page_id)
        for item in items:
            if item.kind in {"message", "echo", "postback"} and item.psid is not None and item.mid is not None:
                self._recent.append((item.page_id, item.psid, item.mid))
        return items

    def _any_recent(self) -> tuple[str, str, str]:
        if not self._recent:
            raise WorldError("nothing was said yet")
        return self._dice.pick(self._recent)

    def _partner(self, page_id: str) -> str:
        """Whom a Page writes to: mostly somebody who just wrote."""
        psids = [psid for page, psid, _ in self._recent if page == page_id]
        return self._dice.pick(psids) if psids and self._dice.chance(0.8) else self._world.somebody(page_id)

    def _person_writes(self, page_id: str) -> list[Item]:
        quick_reply = f"QUICK_{self._dice.below(50)}" if self._dice.chance(0.05) else None
        return self._world.person_sends(page_id, quick_reply=quick_reply)

    def _person_attaches(self, page_id: str) -> list[Item]:
        return self._world.person_sends(page_id, attachments=self._world.some_attachments())

    def _person_sends_something_unsupported(self, page_id: str) -> list[Item]:
        return self._world.person_sends(page_id, is_unsupported=True)

    def _person_replies(self, _: str) -> list[Item]:
        page_id, psid, mid = self._any_recent()
        return self._world.person_sends(page_id, psid, reply_to=mid)

    def _person_taps(self, page_id: str) -> list[Item]:
        return self._world.postback(page_id, payload=f"BUTTON_{self._dice.below(50)}")

    def _page_writes(self, page_id: str) -> list[Item]:
        app = self._dice.pick(("ours", "other", "inbox", "inbox", None))
        metadata = f"ref-{self._dice.below(10**6)}" if app == "ours" else None
        return self._world.page_sends(page_id, self._partner(page_id), app=app, metadata=metadata)

    def _page_attaches(self, page_id: str) -> list[Item]:
        attachments = self._world.some_attachments(from_page=True)
        return self._world.page_sends(page_id, self._partner(page_id), attachments=attachments)

    def _person_reacts(self, _: str) -> list[Item]:
        return self._world.react(self._any_recent()[2], self._dice.pick(tuple(REACTIONS)))

    def _person_takes_reaction_back(self, _: str) -> list[Item]:
        return self._world.unreact(self._any_recent()[2])

    def _person_edits(self, _: str) -> list[Item]:
        return self._world.edit(self._any_recent()[2])

    def _somebody_unsends(self, _: str) -> list[Item]:
        return self._world.unsend(self._any_recent()[2])

    def _person_reads(self, _: str) -> list[Item]:
        page_id, psid, _mid = self._any_recent()
        return self._world.read(page_id, psid)

    def _device_receives(self, _: str) -> list[Item]:
        page_id, psid, _mid = self._any_recent()
        return self._world.delivery(page_id, psid)

    def _conversation_changes_hands(self, _: str) -> list[Item]:
        page_id, psid, _mid = self._any_recent()
        if self._world.is_handed_over(psid):
            return self._world.take_back(page_id, psid)
        do = self._dice.pick((self._world.hand_over, self._world.take_over))
        return do(page_id, psid)

    def _person_comes_by_link(self, _: str) -> list[Item]:
        page_id, psid, _mid = self._any_recent()
        return self._world.refer(page_id, psid)

    def _person_writes_to_an_ad(self, page_id: str) -> list[Item]:
        number = self._dice.below(10**9)
        context = {"ad_title": "Größe XL, nur heute", "photo_url": f"https://scontent.xx.fbcdn.net/p/{number}.jpg"}
        referral = {"ref": f"ad-{number}", "ad_id": str(number), "source": "ADS", "type": "OPEN_THREAD"}
        return self._world.person_sends(page_id, referral={**referral, "ads_context_data": context})

    def _new_person_gets_started(self, page_id: str) -> list[Item]:
        referral = {"ref": f"link-{self._dice.below(50)}", "source": "SHORTLINK", "type": "OPEN_THREAD"}
        psid = self._world.new_person(page_id)
        return self._world.postback(page_id, psid, title="Get started", payload="GET_STARTED", referral=referral)

    def _something_else_happens(self, _: str) -> list[Item]:
        page_id, psid, _mid = self._any_recent()
        return self._world.event(page_id, self._dice.pick(tuple(KINDS)), psid)

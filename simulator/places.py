"""Where everything in a world is: its Pages, conversations and messages, found by id or listed."""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING

from simulator.clock import Now, milliseconds, real_now
from simulator.history import History
from simulator.ids import CONVERSATION_BITS, PAGE_BITS, Ids
from simulator.page import Page
from simulator.thread import NO_END, Thread

if TYPE_CHECKING:
    from collections.abc import Iterator


class WorldError(ValueError):
    """It can't happen on Facebook; the text says why."""


class Places:
    """A world to look at: its Pages, and their conversations as they were when it began or were touched since."""

    def __init__(
        self,
        seed: int = 0,
        *,
        pages: int = 5,
        conversations_per_page: int = 40,
        messages_per_conversation: int = 30,
        now: Now = real_now,
    ) -> None:
        for name, value, low, high in (
            ("pages", pages, 1, 1 << PAGE_BITS),
            ("conversations_per_page", conversations_per_page, 0, 1 << (CONVERSATION_BITS - 1)),
            ("messages_per_conversation", messages_per_conversation, 1, 1 << 20),
        ):
            if not low <= value <= high:
                raise WorldError(f"{name} must be from {low} to {high}, not {value}")
        self.seed, self.now = seed, now
        self.ids = Ids(seed)
        self.history = History(
            seed,
            self.ids,
            conversations=conversations_per_page,
            messages=messages_per_conversation,
            began_ms=milliseconds(now()),
        )
        self.pages = [Page(n, self.ids.page_id(n), self.history.page_name(n), seed) for n in range(pages)]
        self._by_id = {page.id: page for page in self.pages}
        self._touched: list[dict[int, Thread]] = [{} for _ in self.pages]
        self._people = [conversations_per_page] * pages

    @property
    def user_token(self) -> str:
        """The token of the user who has a role on all Pages."""
        return f"EAAUser{self.seed:x}{self.ids.page_id(self.seed % 997)}"

    def now_ms(self) -> int:
        """The world's time, epoch ms."""
        return milliseconds(self.now())

    def find_page(self, page_id: str) -> Page | None:
        """The Page with this id."""
        return self._by_id.get(page_id)

    def page(self, page_id: str) -> Page:
        """The Page with this id.

        Raises:
            WorldError: there is none.

        """
        page = self._by_id.get(page_id)
        if page is None:
            raise WorldError(f"no Page {page_id} in this world")
        return page

    def people(self, page_id: str) -> int:
        """How many people a Page has, those included who did not write yet."""
        return self._people[self.page(page_id).number]

    def find_thread(self, thread_id: str) -> Thread | None:
        """The conversation with this thread id."""
        return self._thread_at(self.ids.find_thread(thread_id))

    def find_person(self, psid: str) -> Thread | None:
        """The conversation of this person."""
        return self._thread_at(self.ids.find_psid(psid))

    def find_message(self, mid: str) -> tuple[Thread, int] | None:
        """A message's conversation and its number in it; also of one unsent."""
        place = self.ids.find_mid(mid)
        thread = self._thread_at(place[:2]) if place else None
        return (thread, place[2]) if thread and place and place[2] < thread.next_n else None

    def _thread_at(self, place: tuple[int, int] | None) -> Thread | None:
        if place is None or place[0] >= len(self.pages) or place[1] >= self._people[place[0]]:
            return None
        return self._touched[place[0]].get(place[1]) or Thread(self.history, self.ids, *place)

    def threads(self, page: Page, at: int = NO_END, *, after: tuple[int, int] | None = None) -> Iterator[Thread]:
        """Yield a Page's conversations newest first, as at `at`; from beyond the position `after`.

        A position is (updated at in ms, number): what comes later in the list has a smaller time, or the same and a
        greater number.
        """
        limit = (-after[0], after[1]) if after is not None else None
        touched = self._touched[page.number]
        moved = []
        for number, thread in touched.items():
            updated = thread.updated_at(at) if thread.has_moved else None
            if updated is not None and (limit is None or (-updated, number) > limit):
                moved.append((-updated, number))
        for _, number in merge(sorted(moved), self._unmoved(page.number, limit)):
            yield touched.get(number) or Thread(self.history, self.ids, page.number, number)

    def _unmoved(self, page: int, limit: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
        low, high = 0, self.history.conversations
        while limit is not None and low < high:
            middle = (low + high) // 2
            if (-self.history.updated_at(page, middle), middle) > limit:
                high = middle
            else:
                low = middle + 1
        touched = self._touched[page]
        for number in range(low, self.history.conversations):
            thread = touched.get(number)
            if thread is None or not thread.has_moved:
                yield -self.history.updated_at(page, number), number

"""What was posted, and what of it was answered 200: the journal must hold just that."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx


class Ledger:
    """Listens to clients that post webhooks."""

    def __init__(self) -> None:
        self.posted: Counter[bytes] = Counter()
        self.acknowledged: Counter[bytes] = Counter()

    def watch(self, http: httpx.AsyncClient) -> None:
        """Note what this client posts to a webhook from now on."""
        http.event_hooks["request"].append(self._note_post)
        http.event_hooks["response"].append(self._note_answer)

    async def _note_post(self, request: httpx.Request) -> None:
        if request.url.path == "/webhook":
            self.posted[request.content] += 1

    async def _note_answer(self, response: httpx.Response) -> None:
        if response.request.url.path == "/webhook" and response.status_code == 200:
            self.acknowledged[response.request.content] += 1

    def differences(self, journal: Mapping[bytes, int]) -> list[str]:
        """Compare with how often each body stands in the journal: as often as it was answered 200.

        A post without an answer may stand there or not.
        """
        found = [
            f"{self.acknowledged[body]} answered 200, {journal.get(body, 0)} in the journal: {body!r}"
            for body in self.acknowledged
            if journal.get(body, 0) < self.acknowledged[body]
        ]
        return found + [
            f"{self.posted[body]} posted, {n} in the journal: {body!r}"
            for body, n in journal.items()
            if n > self.posted[body]
        ]

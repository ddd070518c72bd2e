"""Ids as Facebook's look, made from a position in the world and turned back into it: nothing is stored for them.

A position is (page, conversation, message), each a small whole number. PSIDs and thread ids are decimal numbers, mids
`m_` and 86 letters of url-safe base64; all mids of a thread share a long middle part, as real ones do (Graph sheet,
2.4), so that truncating or comparing prefixes goes wrong here too.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from functools import lru_cache
from hashlib import blake2b

PAGE_BITS, CONVERSATION_BITS, MESSAGE_BITS = 20, 22, 22
_CONVERSATIONS = 1 << CONVERSATION_BITS
_MESSAGES = 1 << MESSAGE_BITS
_PAGE_BASE, _PSID_BASE, _THREAD_BASE = 102_000_000_000_000, 5_200_000_000_000_000, 311_000_000_000_000
_PAGE_STEP, _PSID_STEP, _THREAD_STEP = 7_919, 811, 13


class _Shuffle:
    """A one-to-one map of the numbers of so many bits: add, multiply by an odd number, fold, multiply again."""

    def __init__(self, bits: int, factor: int) -> None:
        self._bits, self._mask = bits, (1 << bits) - 1
        self._half = (bits + 1) // 2
        self._factor = factor & self._mask | 1
        self._inverse = pow(self._factor, -1, 1 << bits)
        self._start = factor >> 9 & self._mask  # else the first of every world would be alike

    def forth(self, value: int) -> int:
        value = (value + self._start) * self._factor & self._mask
        value ^= value >> self._half
        return value * self._factor & self._mask

    def back(self, value: int) -> int:
        value = value * self._inverse & self._mask
        value ^= value >> self._half
        return value * self._inverse - self._start & self._mask


class Ids:
    """The ids of one world."""

    def __init__(self, seed: int) -> None:
        self._key = blake2b(f"world {seed}".encode(), digest_size=32).digest()
        factor = int.from_bytes(self._key[:8], "big")
        self._pages = _Shuffle(PAGE_BITS, factor)
        self._people = _Shuffle(PAGE_BITS + CONVERSATION_BITS, factor >> 3)
        self._threads = _Shuffle(PAGE_BITS + CONVERSATION_BITS, factor >> 7)
        self._mids = _Shuffle(64, factor)
        self._middle = lru_cache(maxsize=4096)(self._new_middle)

    def page_id(self, page: int) -> str:
        """A Page's id."""
        return str(_PAGE_BASE + self._pages.forth(page) * _PAGE_STEP)

    def psid(self, page: int, conversation: int) -> str:
        """A person's id for a Page."""
        return str(_PSID_BASE + self._people.forth(page << CONVERSATION_BITS | conversation) * _PSID_STEP)

    def thread_id(self, page: int, conversation: int) -> str:
        """A conversation's id in Graph."""
        return f"t_{_THREAD_BASE + self._threads.forth(page << CONVERSATION_BITS | conversation) * _THREAD_STEP}"

    def mid(self, page: int, conversation: int, message: int) -> str:
        """A message's id."""
        place = page << CONVERSATION_BITS | conversation
        head = self._mids.forth(place << MESSAGE_BITS | message).to_bytes(8, "big")
        tail = blake2b(head, key=self._key, digest_size=16).digest()
        return "m_" + urlsafe_b64encode(head + b"\x4d\x81" + self._middle(place) + tail).decode().rstrip("=")

    def find_psid(self, psid: str) -> tuple[int, int] | None:
        """(page, conversation) of a PSID; None when it is none of this world."""
        number = _number(psid, _PSID_BASE, _PSID_STEP, PAGE_BITS + CONVERSATION_BITS)
        return None if number is None else divmod(self._people.back(number), _CONVERSATIONS)

    def find_thread(self, thread_id: str) -> tuple[int, int] | None:
        """(page, conversation) of a thread id."""
        number = _number(thread_id.removeprefix("t_"), _THREAD_BASE, _THREAD_STEP, PAGE_BITS + CONVERSATION_BITS)
        if number is None or not thread_id.startswith("t_"):
            return None
        return divmod(self._threads.back(number), _CONVERSATIONS)

    def find_mid(self, mid: str) -> tuple[int, int, int] | None:
        """(page, conversation, message) of a mid, compared whole."""
        if len(mid) != 88 or not mid.startswith("m_"):
            return None
        try:
            head = urlsafe_b64decode(mid[2:] + "==")[:8]
        except (NotBase64, ValueError):
            return None
        place, message = divmod(self._mids.back(int.from_bytes(head, "big")), _MESSAGES)
        page, conversation = divmod(place, _CONVERSATIONS)
        return (page, conversation, message) if self.mid(page, conversation, message) == mid else None

    def _new_middle(self, place: int) -> bytes:
        return blake2b(place.to_bytes(8, "big"), key=self._key, digest_size=38).digest()


def _number(text: str, base: int, step: int, bits: int) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        return None
    number, rest = divmod(int(text) - base, step)
    return number if rest == 0 and 0 <= number < 1 << bits else None

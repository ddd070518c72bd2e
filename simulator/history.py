"""What was said before the world began: worked out from the seed when asked for, never stored.

Conversation `c` of a Page is the `c`-th newest. Its messages come in sessions of eight, hours apart; some within one
second, as real ones do, so that whole-second times repeat.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from simulator.attachments import roll_attachments
from simulator.dice import Dice
from simulator.message import REACTIONS, UNTOUCHED, Base, Message, Reaction
from simulator.texts import BUTTONS, page_name, person_name, text

if TYPE_CHECKING:
    from simulator.ids import Ids

_SESSION = 8
_SLOT_MS = 25_000
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
OUR_APP_ID, OTHER_APP_ID = "1517776481860111", "2040191719563041"
PAGE_INBOX_APP_ID = "263902037430900"  # 15 digits; Meta's pages print both this and a 14-digit one (sheet, 5.2)
# what each dice of the world is for
_NAME, _CONVERSATION, _SESSION_START, _MESSAGE, _TIME, _BASE, _PAGE = range(1, 8)


class _Shape(NamedTuple):
    """A conversation's times, in ms: between the sessions, and when it began."""

    gap: int
    start: int


class History:
    """The past of one world: pure functions of its seed, sizes and beginning."""

    def __init__(self, seed: int, ids: Ids, *, conversations: int, messages: int, began_ms: int) -> None:
        self.seed, self._ids = seed, ids
        self.conversations, self._messages = conversations, messages
        self._end = began_ms - 60_000
        self._spacing = min(6 * _HOUR_MS, 90 * _DAY_MS // max(1, conversations))
        self._shape = lru_cache(maxsize=4096)(self._new_shape)
        self.message = lru_cache(maxsize=4096)(self._new_message)  # one answer asks for a message several times

    def page_name(self, page: int) -> str:
        """A Page's name."""
        return page_name(Dice(self.seed, _PAGE, page), page)

    def person_name(self, page: int, conversation: int) -> str:
        """The name of the person of a conversation."""
        return person_name(Dice(self.seed, _NAME, page, conversation))

    def count(self, page: int, conversation: int) -> int:
        """How many messages a conversation had, those unsent included: 1 to twice the mean less 1."""
        if conversation >= self.conversations:
            return 0
        return 1 + Dice(self.seed, _CONVERSATION, page, conversation).below(2 * self._messages - 1)

    def updated_at(self, page: int, conversation: int) -> int:
        """When its last message came, epoch ms. It falls as `conversation` rises: the list needs no sorting."""
        jitter = mix_below(self._spacing, self.seed, _CONVERSATION, page, conversation, 1)
        return self._end - conversation * self._spacing - jitter

    def sent_at(self, page: int, conversation: int, n: int) -> int:
        """When a message was sent, epoch ms; never falls as `n` rises."""
        gap, start = self._shape(page, conversation)
        return start + self._offset(page, conversation, n, gap)

    def _new_shape(self, page: int, conversation: int) -> _Shape:
        last = self.count(page, conversation) - 1
        gap = min(7 * _HOUR_MS, max(400_000, 3650 * _DAY_MS // (last // _SESSION + 1)))
        return _Shape(gap, self.updated_at(page, conversation) - self._offset(page, conversation, last, gap))

    def _offset(self, page: int, conversation: int, n: int, gap: int) -> int:
        session, slot = divmod(n, _SESSION)
        start = session * gap + mix_below(gap // 4, self.seed, _SESSION_START, page, conversation, session)
        dice = Dice(self.seed, _TIME, page, conversation, n)
        if slot % 2 == 1 and dice.chance(0.3):  # right after the one before
            before = Dice(self.seed, _TIME, page, conversation, n - 1)
            return start + (slot - 1) * _SLOT_MS + _within_slot(before) + 100 + dice.below(400)
        return start + slot * _SLOT_MS + _within_slot(dice)

    def _new_message(self, page: int, conversation: int, n: int) -> Message:
        """A message of the past, as it was when the world began: edits have been made, their text stands."""
        dice = Dice(self.seed, _MESSAGE, page, conversation, n)
        at = self.sent_at(page, conversation, n)
        return roll_message(self._ids, dice, page, conversation, n, at)

    def base(self, page: int, conversation: int, n: int) -> Base:
        """What had become of it: edited, reacted to, or unsent (then it is nowhere to be seen)."""
        dice = Dice(self.seed, _BASE, page, conversation, n)
        roll = dice.below(1000)
        if roll < 20 and n > 0 and n != self.count(page, conversation) - 1:
            return Base(is_gone=True)
        if roll < 60:
            return Base(num_edit=1 + dice.below(2))
        if roll < 140:
            name = dice.pick(tuple(REACTIONS))
            at = self.sent_at(page, conversation, n) + 5_000
            return Base(reactions=(Reaction(at, self._ids.psid(page, conversation), name, REACTIONS[name]),))
        return UNTOUCHED


def mix_below(limit: int, *key: int) -> int:
    """One throw in [0, limit)."""
    return Dice(*key).below(limit)


def _within_slot(dice: Dice) -> int:
    dice.bits()
    return dice.below(_SLOT_MS - 5_000)


def roll_message(
    ids: Ids, dice: Dice, page: int, conversation: int, n: int, at: int, *, is_live: bool = False
) -> Message:
    """Throw a message of the real mixture: mostly texts; attachments, quick replies, replies, postbacks."""
    from_page = dice.chance(0.45)
    mid = ids.mid(page, conversation, n)
    roll = dice.below(100)
    extra = outbound_extra(dice) if from_page else None
    reply_to = ids.mid(page, conversation, dice.below(n)) if n and roll < 6 else None
    if roll < 76:
        if not from_page and roll < 4:
            extra = {"quick_reply": {"payload": f"QUICK_{dice.below(100)}"}}
        return Message(n, mid, from_page, at, text(dice), (), reply_to, extra, is_live)
    if roll < 79 and not from_page:
        title = dice.pick(BUTTONS)
        return Message(
            n, mid, False, at, title, (), None, {"postback": {"payload": f"BUTTON_{dice.below(100)}"}}, is_live
        )
    attachments = roll_attachments(dice, outbound=from_page)
    first = attachments[0]
    said = f"{text(dice)} {first.link}" if first.kind == "fallback" else None
    if first.kind == "image" and dice.chance(0.15):
        said = text(dice)
    return Message(n, mid, from_page, at, said, attachments, reply_to, extra, is_live)


def outbound_extra(dice: Dice) -> dict[str, Any]:
    """What an echo tells of its origin: our app, another app, the Page inbox, or nothing."""
    roll = dice.below(100)
    if roll < 30:
        return {"app_id": int(OUR_APP_ID), "metadata": f"ref-{dice.below(10**6)}"}
    if roll < 50:
        return {"app_id": int(OTHER_APP_ID)}
    return {"app_id": int(PAGE_INBOX_APP_ID)} if roll < 85 else {}

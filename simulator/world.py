"""The world: Pages, people and what they say. Its past follows from a seed; what happens now is done by calling it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.attachments import Attachment, Cdn, roll_attachments
from simulator.clock import Now, real_now
from simulator.dice import Dice
from simulator.events import KINDS, event_item
from simulator.history import OTHER_APP_ID, OUR_APP_ID, PAGE_INBOX_APP_ID
from simulator.items import Item, Parties, message_item
from simulator.message import MAX_EDITS, REACTIONS, Message, Reaction, State
from simulator.places import Places, WorldError
from simulator.texts import BUTTONS
from simulator.texts import text as some_text
from simulator.thread import NO_END, Thread
from simulator.truth import Truth, true_conversations, true_messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from simulator.truth import ConversationTruth, MessageTruth

APPS = {"ours": OUR_APP_ID, "other": OTHER_APP_ID, "inbox": PAGE_INBOX_APP_ID}


class World(Places):
    """A generated world. The same arguments and the same calls give the same world.

    `conversations_per_page` and `messages_per_conversation` (a mean) tell how much there was before it began; nothing
    of that is stored, so its size costs no memory; what happens since is, with about 0.6 KB a message. `sticker_pairs`
    sends stickers as before 30 Aug 2026, twice. `changes_move_updated_time` is what a Graph's `Behaviour` says.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        pages: int = 5,
        conversations_per_page: int = 40,
        messages_per_conversation: int = 30,
        now: Now = real_now,
        sticker_pairs: bool = False,
    ) -> None:
        super().__init__(
            seed,
            pages=pages,
            conversations_per_page=conversations_per_page,
            messages_per_conversation=messages_per_conversation,
            now=now,
        )
        self.cdn = Cdn()
        self._sticker_pairs = sticker_pairs
        self.changes_move_updated_time = False
        self._dice = Dice(seed, 1_000_003)

    def truth(self, page_id: str, at: int = NO_END) -> Truth:
        """What rows of a Page must exist, now or at a moment (epoch ms)."""
        return Truth(list(self.true_conversations(page_id, at)), list(self.true_messages(page_id, at)))

    def true_messages(self, page_id: str, at: int = NO_END) -> Iterator[MessageTruth]:
        """Yield every message that must have a row, one conversation after the other, oldest first in each."""
        return true_messages(self, page_id, at)

    def true_conversations(self, page_id: str, at: int = NO_END) -> Iterator[ConversationTruth]:
        """Yield every conversation that has a message, newest first."""
        return true_conversations(self, page_id, at)

    def new_person(self, page_id: str) -> str:
        """Somebody who never wrote to the Page; returns the PSID."""
        page = self.page(page_id)
        number = self._people[page.number]
        self._people[page.number] += 1
        return self.ids.psid(page.number, number)

    def somebody(self, page_id: str) -> str:
        """Somebody who may write now: mostly who wrote lately, sometimes somebody new; returns the PSID."""
        page = self.page(page_id)
        people = self._people[page.number]
        if people == 0 or self._dice.chance(0.04):
            return self.new_person(page_id)
        share = self._dice.below(1 << 20) / (1 << 20)
        return self.ids.psid(page.number, int(people * share * share))

    def person_sends(
        self,
        page_id: str,
        psid: str | None = None,
        *,
        text: str | None = None,
        attachments: Sequence[Attachment] = (),
        reply_to: str | None = None,
        quick_reply: str | None = None,
        referral: dict[str, Any] | None = None,
        is_unsupported: bool = False,
    ) -> list[Item]:
        """A person writes to a Page; without text and attachments, something. Without `psid`, somebody.

        What is unsupported has neither; there is no more of it at either door than that.
        """
        extra: dict[str, Any] = {"quick_reply": {"payload": quick_reply}} if quick_reply is not None else {}
        if referral is not None:
            extra["referral"] = referral
        if is_unsupported:
            if text is not None or attachments:
                raise WorldError("what is unsupported has neither text nor attachments")
            extra["is_unsupported"] = True
        return self._send(page_id, psid, False, text, attachments, reply_to, extra)

    def page_sends(
        self,
        page_id: str,
        psid: str | None = None,
        *,
        text: str | None = None,
        attachments: Sequence[Attachment] = (),
        reply_to: str | None = None,
        app: str | None = "inbox",
        metadata: str | None = None,
    ) -> list[Item]:
        """A Page writes to a person: an echo. `app` is who sent it: ours, other, inbox, or None to leave it out."""
        if app is not None and app not in APPS:
            raise WorldError(f"app must be one of {', '.join(APPS)}, or None, not {app}")
        extra: dict[str, Any] = {"app_id": int(APPS[app])} if app is not None else {}
        if metadata is not None:
            extra["metadata"] = metadata
        return self._send(page_id, psid, True, text, attachments, reply_to, extra)

    def postback(
        self,
        page_id: str,
        psid: str | None = None,
        *,
        title: str = "",
        payload: str = "START",
        referral: dict[str, Any] | None = None,
    ) -> list[Item]:
        """A person taps a button, maybe sent by a `referral`. Graph shows a message with the button's title."""
        extra = {"postback": {"payload": payload} | ({"referral": referral} if referral is not None else {})}
        return self._send(page_id, psid, False, title or self._dice.pick(BUTTONS), (), None, extra)

    def _send(
        self,
        page_id: str,
        psid: str | None,
        from_page: bool,  # noqa: FBT001 - the two public callers name it
        text: str | None,
        attachments: Sequence[Attachment],
        reply_to: str | None,
        extra: dict[str, Any],
    ) -> list[Item]:
        thread = self._thread_of(page_id, psid if psid is not None else self.somebody(page_id))
        if text is None and not attachments and "is_unsupported" not in extra:
            text = some_text(self._dice)
        n = thread.next_n
        at = max(self.now_ms(), thread.updated_at() or 0)
        mid = self.ids.mid(thread.page, thread.number, n)
        message = Message(n, mid, from_page, at, text, tuple(attachments), reply_to, extra, is_live=True)
        thread.add(message)
        self._touched[thread.page][thread.number] = thread
        return [message_item(self._parties(thread), message, self.cdn, sticker_pairs=self._sticker_pairs)]

    def some_attachments(self, *, from_page: bool = False) -> tuple[Attachment, ...]:
        """Attachments to send, of any kind."""
        return roll_attachments(self._dice, outbound=from_page)

    def edit(self, mid: str, text: str | None = None) -> list[Item]:
        """A person edits a message.

        Raises:
            WorldError: it is the Page's, has no text, is unsent, or was edited five times.

        """
        thread, n, state = self._present(mid)
        if state.message.is_from_page or state.text is None or "postback" in (state.message.extra or {}):
            raise WorldError(f"only a person's text can be edited, not {mid}")
        if state.num_edit >= MAX_EDITS:
            raise WorldError(f"{mid} was edited {MAX_EDITS} times already")
        text = text if text is not None else some_text(self._dice)
        at = self._change_time(thread, n)
        number = state.num_edit + 1
        thread.change(n).edits.append((at, number, text))
        body = {"message_edit": {"mid": mid, "text": text, "num_edit": number}}
        return [self._parties(thread).item("message_edit", at, body, mid=mid)]

    def unsend(self, mid: str) -> list[Item]:
        """Whoever sent a message takes it back: it vanishes from Graph."""
        thread, n, state = self._present(mid)
        at = self._change_time(thread, n)
        thread.change(n).deleted_at = at
        from_page = state.message.is_from_page
        body = {"message": {"mid": mid, "is_deleted": True}}
        return [self._parties(thread).item("unsend", at, body, mid=mid, out=from_page)]

    def react(self, mid: str, reaction: str = "love") -> list[Item]:
        """The person reacts to a message, or changes the reaction."""
        if reaction not in REACTIONS:
            raise WorldError(f"reaction must be one of {', '.join(REACTIONS)}, not {reaction}")
        thread, n, _ = self._present(mid)
        at = self._change_time(thread, n)
        thread.change(n).reactions.append(Reaction(at, thread.psid, reaction, REACTIONS[reaction]))
        body = {"reaction": reaction, "emoji": REACTIONS[reaction], "action": "react", "mid": mid}
        return [self._parties(thread).item("reaction", at, {"reaction": body}, mid=mid)]

    def unreact(self, mid: str) -> list[Item]:
        """The person takes the reaction back.

        Raises:
            WorldError: there is none.

        """
        thread, n, state = self._present(mid)
        if not any(r.actor == thread.psid for r in state.reactions):
            raise WorldError(f"no reaction to take back on {mid}")
        at = self._change_time(thread, n)
        thread.change(n).reactions.append(Reaction(at, thread.psid, None, None))
        return [self._parties(thread).item("reaction", at, {"reaction": {"action": "unreact", "mid": mid}}, mid=mid)]

    def read(self, page_id: str, psid: str) -> list[Item]:
        """The person reads all that the Page has sent."""
        thread = self._thread_of(page_id, psid)
        at = max(self.now_ms(), thread.updated_at() or 0, thread.read_watermark() or 0)
        thread.read.append((self.now_ms(), at))
        if self.changes_move_updated_time:
            thread.move(at)
        self._touched[thread.page][thread.number] = thread
        return [self._parties(thread).item("read", at, {"read": {"watermark": at}})]

    def delivery(self, page_id: str, psid: str) -> list[Item]:
        """What the Page has sent reaches the person's device."""
        thread = self._thread_of(page_id, psid)
        before = thread.delivered_watermark() or 0
        at = max(self.now_ms(), thread.updated_at() or 0, before)
        thread.delivered.append((self.now_ms(), at))
        self._touched[thread.page][thread.number] = thread
        recent = [thread.message(n) for n in range(max(thread.past, thread.next_n - 20), thread.next_n)]
        mids = [m.mid for m in recent if m.is_from_page and m.at > before]
        body: dict[str, Any] = {"watermark": at}
        if mids and self._dice.chance(0.7):  # mids are sometimes there (webhooks sheet, 5.4)
            body["mids"] = mids
        return [self._parties(thread).item("delivery", at, {"delivery": body})]

    def hand_over(self, page_id: str, psid: str, *, to: str = "inbox") -> list[Item]:
        """Give a conversation to another app: what follows comes as standby until `take_back`."""
        return self._pass(page_id, psid, APPS[to])

    def take_over(self, page_id: str, psid: str) -> list[Item]:
        """Let the Page inbox take a conversation, as when an agent moves it there: likewise."""
        return self._pass(page_id, psid, PAGE_INBOX_APP_ID, key="take_thread_control")

    def take_back(self, page_id: str, psid: str) -> list[Item]:
        """Give the conversation to our app again."""
        return self._pass(page_id, psid, OUR_APP_ID)

    def is_handed_over(self, psid: str) -> bool:
        """Whether another app than ours owns the person's conversation."""
        thread = self.find_person(psid)
        return thread is not None and thread.owner_app_id() not in {None, OUR_APP_ID}

    def _pass(self, page_id: str, psid: str, to: str, key: str = "pass_thread_control") -> list[Item]:
        thread = self._thread_of(page_id, psid)
        previous = thread.owner_app_id()
        thread.owners.append((self.now_ms(), to))
        self._touched[thread.page][thread.number] = thread
        new: str | int = int(to) if key == "take_thread_control" else to  # ids are either (webhooks sheet, 5.5)
        body = {"previous_owner_app_id": previous, "new_owner_app_id": new, "metadata": "handed over"}
        parties = Parties(page_id, thread.psid, "messaging")
        return [parties.item("handover", self.now_ms(), {key: body})]

    def refer(self, page_id: str, psid: str, *, ref: str = "summer", source: str = "SHORTLINK") -> list[Item]:
        """A person comes back to the conversation by a link or an ad."""
        thread = self._thread_of(page_id, psid)
        body = {"ref": ref, "source": source, "type": "OPEN_THREAD"}
        return [self._parties(thread).item("referral", self.now_ms(), {"referral": body})]

    def event(self, page_id: str, kind: str, psid: str | None = None) -> list[Item]:
        """Let something happen that leaves no trace in Graph; `kind` is one of `simulator.events.KINDS`.

        Raises:
            WorldError: there is no such kind.

        """
        if kind not in KINDS:
            raise WorldError(f"kind must be one of {', '.join(KINDS)}, not {kind}")
        thread = self._thread_of(page_id, psid if psid is not None else self.somebody(page_id))
        return [event_item(kind, page_id, thread.psid, self._dice.below(10**9), self.now_ms())]

    def _thread_of(self, page_id: str, psid: str) -> Thread:
        page, thread = self.page(page_id), self.find_person(psid)
        if thread is None or thread.page != page.number:
            raise WorldError(f"no person {psid} on Page {page_id}")
        return thread

    def _present(self, mid: str) -> tuple[Thread, int, State]:
        found = self.find_message(mid)
        state = found[0].state(found[1]) if found else None
        if found is None or state is None or state.deleted_at is not None:
            raise WorldError(f"no message {mid}, or it was unsent")
        return *found, state

    def _parties(self, thread: Thread) -> Parties:
        via = "standby" if self.is_handed_over(thread.psid) else "messaging"
        return Parties(self.pages[thread.page].id, thread.psid, via)

    def _change_time(self, thread: Thread, n: int) -> int:
        """Now, but later than whatever happened to the message before: two changes never share a millisecond."""
        self._touched[thread.page][thread.number] = thread
        changes = thread.change(n)
        before = [thread.message(n).at, *(e[0] for e in changes.edits), *(r.at for r in changes.reactions)]
        at = max(self.now_ms(), max(before) + 1)
        if self.changes_move_updated_time:
            thread.move(at)
        return at

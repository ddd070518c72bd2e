"""What readers see of a message and a conversation beside its words: compared with the truth after an audit."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from app.demo.comparison import at
from sql.conversations import show_conversation
from sql.messages import list_messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from simulator import World
    from simulator.thread import Thread
    from simulator.truth import AttachmentTruth, MessageTruth
    from sql.upsert import Connection

ALL = 100_000
NEWEST = 20  # messages in which Graph looks for what it says of a conversation
DAY_MS = 86_400_000


async def compare_shown(
    connection: Connection,
    world: World,
    page_id: str,
    kinds: Mapping[str, set[str]],
    watermarks: Mapping[tuple[str, str], Any],
) -> list[str]:
    """Tell what is wrong in what the API's own statements show of a Page, when an audit has just read it."""
    found: list[str] = []
    truth = {true.mid: true for true in world.true_messages(page_id)}
    for true in world.true_conversations(page_id):
        thread = world.find_thread(true.thread_id)
        shown = await show_conversation(connection, page_id, true.psid)
        rows = await list_messages(connection, page_id, true.psid, after=None, limit=ALL)
        if shown is None or thread is None:
            found.append(f"{true.psid} is not shown")
            continue
        found += _wrong_conversation(thread, dict(shown), [dict(row) for row in rows], world.now_ms())
        receipts = [watermarks.get((true.psid, name)) for name in ("read", "delivery")]
        for row in rows:
            if row["mid"] in truth:
                found += _wrong_message(truth[row["mid"]], dict(row), kinds.get(row["mid"], set()), receipts)
    return found


def _wrong_conversation(
    thread: Thread, shown: Mapping[str, Any], rows: list[dict[str, Any]], now_ms: int
) -> Iterator[str]:
    newest = list(islice(thread.newest_first(), NEWEST))
    unread = next((n for n, state in enumerate(newest) if state.message.is_from_page), len(newest))
    can_reply = any(not s.message.is_from_page and s.message.at > now_ms - DAY_MS for s in newest)
    last = rows[0] if rows else dict.fromkeys(("mid", "sent_at", "direction", "text"))
    expected: dict[str, Any] = {
        "platform": "messenger",
        "message_count": thread.count(),
        "unread_count": unread,
        "can_reply": can_reply,
        "last_message_mid": last["mid"],
        "last_message_at": last["sent_at"],
        "last_message_direction": last["direction"],
        "snippet": last["text"][:200] if last["text"] else None,
        "tags": [],
    }
    for name, value in expected.items():
        if shown[name] != value:
            yield f"{thread.psid} has the {name} {shown[name]!r}, not {value!r}"


def _wrong_message(true: MessageTruth, row: dict[str, Any], told: set[str], receipts: list[Any]) -> Iterator[str]:
    came_live = bool(told & {"message", "echo", "postback"})
    if true.is_deleted and "unsend" not in told:
        return
    expected: dict[str, Any] = {"missing_in_graph_since": None}
    if true.in_graph:
        expected["thread_id"] = true.thread_id
    if row["direction"] == "outbound":
        read, delivered = receipts
        expected["is_read"] = read is not None and row["sent_at"] <= read
        expected["is_delivered"] = expected["is_read"] or (delivered is not None and row["sent_at"] <= delivered)
    first = "webhook" if row["sync_seen_at"] is None else "sync" if row["webhook_seen_at"] is None else None
    if first is not None:
        expected["first_seen_via"] = first
    for name, value in expected.items():
        if row[name] != value:
            yield f"{true.mid} has the {name} {row[name]!r}, not {value!r}"
    yield from _wrong_attachments(true, row["attachments"] or [], came_live=came_live)
    yield from _wrong_reactions(true, row["reactions"])


def _wrong_attachments(true: MessageTruth, shown: list[dict[str, Any]], *, came_live: bool) -> Iterator[str]:
    """Each has the type that webhooks give it, and a link that can be followed where Facebook gives one."""
    known = true.attachments_at(webhook=came_live)
    for one, attachment in zip(known, shown, strict=False):
        wanted = one.webhook_type if came_live else one.graph_type
        if attachment["type"] != wanted:
            yield f"{true.mid} has a {attachment['type']}, not a {wanted}"
        link = attachment.get("url")
        if _is_media(one) and (link is None or one.identity not in link or "oe=" not in link):
            yield f"{true.mid} has {wanted} at {link}"
        if _is_media(one) and not attachment.get("url_expires_at"):
            yield f"{true.mid} has {wanted} whose link never expires"


def _is_media(one: AttachmentTruth) -> bool:
    return one.webhook_type in {"image", "video", "audio", "file", "sticker"}


def _wrong_reactions(true: MessageTruth, shown: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What Graph lists has a name and no time; what a webhook told has name, emoji and time."""
    wanted = {reaction.actor: reaction for reaction in true.reactions}
    for row in shown:
        reaction = wanted.get(row["actor"])
        if reaction is None:
            continue  # told elsewhere
        if row["reacted_at"] is None:
            if reaction.reaction not in {row["reaction"], None} and reaction.emoji != row["emoji"]:
                yield f"{true.mid} has the reaction {row}, not {reaction}"
            continue
        seen = (row["reaction"], row["emoji"], row["reacted_at"])
        moment = at(reaction.at_ms).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if seen != (reaction.reaction, reaction.emoji, moment):
            yield f"{true.mid} has the reaction {seen}, not {(reaction.reaction, reaction.emoji, moment)}"

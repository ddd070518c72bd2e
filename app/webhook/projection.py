"""Turn one item into rows: every kind of the event catalogue becomes state, or is kept as an event.

`project` decides by which key an item holds, never by the name of a subscribed field: one item may hold a message and
an order, or a referral and a lead. All that follows is a function of the item and its delivery alone.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from app.webhook.event import CHANGE_KINDS, EVENT_KINDS, event_rows
from app.webhook.items import text_id
from app.webhook.message import conversation_rows, message_rows
from app.webhook.payload import MAX_ID, EditBody, Item, PostbackBody, ReactionBody, ReceiptBody, milliseconds, read_time
from sql.json_values import canonical, dumps
from sql.mids import canonical_mid
from sql.rows import SENT_BY_WEBHOOK_CLOCK, SENT_ESTIMATED, Conversation, Message, Reaction, Row

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date, datetime
    from uuid import UUID

    from app.webhook.items import RawItem


class Door(NamedTuple):
    """A delivery's identity: when and as what it came in."""

    received_at: datetime
    day: date
    id: UUID


class Projected(NamedTuple):
    """What became of an item: its rows, the kinds in it, and keys that no version of this code knows yet."""

    rows: list[Row]
    kinds: tuple[str, ...]
    unknown: tuple[str, ...] = ()


class ItemError(ValueError):
    """The item can't be read: it becomes a dead letter."""


_STATE_KEYS = {"message", "message_edit", "reaction", "postback", "delivery", "read"}
# what stands beside a main key and tells about it; never a main key of its own
_BESIDE_A_MESSAGE = ("prior_message", "hop_context", "lead", "is_self")
_SIDE_KEYS = {"sender", "recipient", "timestamp", *_BESIDE_A_MESSAGE}


class Context(NamedTuple):
    """What the envelope and the parties tell of an item."""

    page_id: str
    psid: str | None
    platform: str
    via: str
    at: datetime
    is_estimated: bool
    sender: str | None
    door: Door

    @property
    def clock(self) -> int:
        """The time as the registers compare it: an estimated one loses to any real one, the least of those wins."""
        return -milliseconds(self.at) if self.is_estimated else milliseconds(self.at)

    @property
    def is_from_page(self) -> bool:
        """Whether the Page is the sender."""
        return self.sender == self.page_id


def project(raw: RawItem, door: Door) -> Projected:
    """Turn an item into rows.

    Raises:
        ItemError: it is of no shape that can be read; its text names the place and what is wrong, and quotes nothing.

    """
    if raw.via == "changes":
        return _change(raw, door)
    if raw.via == "calls":
        return _call(raw, door)
    return _item(raw, raw.value, door)


def _item(raw: RawItem, value: dict[str, Any], door: Door) -> Projected:
    try:
        item = Item.model_validate(value)
    except ValidationError as error:
        raise ItemError(_reason(error)) from None
    context = _context(raw, item, door)
    rows: list[Row] = []
    kinds: list[str] = []
    if item.message is not None:
        kinds.append("deleted" if item.message.is_deleted else "echo" if item.message.is_echo else "message")
        # a message alone stands beside sender, recipient and timestamp
        sides = {k: value[k] for k in _BESIDE_A_MESSAGE if value.get(k) is not None} if len(value) > 4 else {}
        rows += message_rows(context, item.message, sides) or event_rows(context, "message", value, item.message.mid)
    if item.postback is not None:
        kinds.append("postback")
        rows += _postback(context, item.postback, value)
    if item.message_edit is not None:
        kinds.append("message_edit")
        rows += _edit(context, item.message_edit, value)
    if item.reaction is not None:
        kinds.append("reaction")
        rows += _reaction(context, item.reaction, value)
    for kind, receipt in (("delivery", item.delivery), ("read", item.read)):
        if receipt is not None:
            kinds.append(kind)
            rows += _receipt(context, kind, receipt, value)
    others = value.keys() - _SIDE_KEYS
    if kinds and len(kinds) == len(others):
        return Projected(rows, tuple(kinds))
    named = [EVENT_KINDS[key] for key in sorted(others & EVENT_KINDS.keys())]
    unknown = tuple(sorted(others - EVENT_KINDS.keys() - _STATE_KEYS))
    if named or unknown or not kinds:
        rows += event_rows(context, named[0] if named else "unknown", _without_state(context, value), _mid_in(value))
    kinds += named
    return Projected(rows, tuple(kinds) or ("unknown",), unknown)


def _without_state(context: Context, value: dict[str, Any]) -> dict[str, Any]:
    """Leave out what became rows of its own, so that an unsend finds it all; which message it was stays."""
    return {
        key: {"mid": canonical_mid(str(inner["mid"]), context.platform)}
        if key in _STATE_KEYS and isinstance(inner, dict) and inner.get("mid") is not None
        else inner
        for key, inner in value.items()
    }


def _mid_in(value: dict[str, Any]) -> str | None:
    """The message that an item of any kind is about."""
    mids = (text_id(inner.get("mid")) for inner in value.values() if isinstance(inner, dict))
    return next((mid for mid in mids if mid is not None), None)


def _reason(error: ValidationError) -> str:
    """Say where and what, without the value: it may be private."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'item'}: {first['msg'].removeprefix('Value error, ')}"


def _context(raw: RawItem, item: Item, door: Door) -> Context:
    """Work out who and when.

    Labels are not to be trusted (doc samples swap them): the person is whoever is not the Page.
    """
    sender = item.sender.id if item.sender else None
    recipient = item.recipient.id if item.recipient else None
    is_echo = item.message is not None and item.message.is_echo
    first, second = (recipient, sender) if is_echo else (sender, recipient)
    psid = first if first is not None and first != raw.page_id else second if second != raw.page_id else None
    at = item.timestamp
    return Context(
        raw.page_id,
        psid,
        raw.platform,
        raw.via,
        at or read_time(raw.entry_time) or door.received_at,
        at is None,
        sender,
        door,
    )


def _postback(context: Context, postback: PostbackBody, value: dict[str, Any]) -> list[Row]:
    if postback.mid is None or context.psid is None:
        # its identity, alike in messaging and standby: only the app that sent the button sees the payload
        moment = value.get("timestamp")
        identity = canonical([context.psid or value.get("sender"), moment, postback.title])
        return event_rows(context, "postback", value, postback.mid, key="postback:" + sha256(identity).hexdigest())
    body = postback.model_dump(exclude={"mid"}, exclude_none=True)
    original = {"text": postback.title, "postback": body} if postback.title else {"postback": body}
    if isinstance(body.get("referral"), dict):
        original["referral"] = body["referral"]
    return [
        Conversation(context.page_id, context.psid, context.platform),
        Message(
            context.page_id,
            canonical_mid(postback.mid, context.platform),
            context.psid,
            direction="inbound",
            sent_at=context.at,
            sent_at_rank=SENT_ESTIMATED if context.is_estimated else SENT_BY_WEBHOOK_CLOCK,
            original=dumps(original),
            webhook_seen_at=context.door.received_at,
            delivery_day=context.door.day,
            delivery_id=context.door.id,
        ),
    ]


def _edit(context: Context, edit: EditBody, value: dict[str, Any]) -> list[Row]:
    mid = canonical_mid(edit.mid, context.platform)
    # Instagram sends new messages as `message_edit` without text and often without sender (webhooks reference, 5.3)
    if edit.text is None:
        return event_rows(context, "message_edit", value, mid)
    return [
        *conversation_rows(context),
        Message(
            context.page_id,
            mid,
            context.psid,
            edits=dumps({str(edit.num_edit): [context.clock, edit.text or None]}),
            delivery_day=context.door.day,
            delivery_id=context.door.id,
        ),
    ]


def _reaction(context: Context, reaction: ReactionBody, value: dict[str, Any]) -> list[Row]:
    mid = canonical_mid(reaction.mid, context.platform)
    if context.sender is None:
        return event_rows(context, "reaction", value, mid)
    door = context.door
    is_removed = reaction.action == "unreact"
    return [
        *conversation_rows(context),
        Message(context.page_id, mid, context.psid, delivery_day=door.day, delivery_id=door.id),
        Reaction(
            context.page_id,
            mid,
            context.sender,
            None if is_removed else reaction.reaction,
            None if is_removed else reaction.emoji,
            is_removed,
            context.at,
            context.is_estimated,
            door.day,
            door.id,
        ),
    ]


def _receipt(context: Context, kind: str, receipt: ReceiptBody, value: dict[str, Any]) -> list[Row]:
    if receipt.watermark is None or context.psid is None:
        return event_rows(context, kind, value, receipt.mid)
    conversation = Conversation(
        context.page_id,
        context.psid,
        context.platform,
        delivered_watermark=receipt.watermark if kind == "delivery" else None,
        read_watermark=receipt.watermark if kind == "read" else None,
    )
    return [conversation]


def _change(raw: RawItem, door: Door) -> Projected:
    """`changes[{field, value}]`: a messaging item in another envelope, or an event of the Page or of the app."""
    value, field = raw.value.get("value"), raw.value.get("field")
    if not isinstance(field, str) or not field:
        raise ItemError("field: a change must name its field")
    inner = value if isinstance(value, dict) else {}
    parties = [inner.get(key) for key in ("sender", "recipient", *(("user",) if field == "inbox_labels" else ()))]
    if any(parties) and (not inner.keys().isdisjoint(_STATE_KEYS) or not inner.keys().isdisjoint(EVENT_KINDS)):
        return _item(raw, inner, door)
    if raw.platform == "permissions":
        kind: str | None = "permission"
    else:
        kind = EVENT_KINDS.get(field) or CHANGE_KINDS.get(field)
    time = inner.get("timestamp") or inner.get("created_time")
    psid = _person(raw.page_id, (party.get("id") for party in parties if isinstance(party, dict)))
    context = _context(raw, Item.model_construct(timestamp=read_time(time)), door)._replace(psid=psid)
    event = event_rows(context, kind or "unknown", raw.value, _mid_in(inner))
    return Projected(event, (kind or "unknown",), () if kind else (f"changes:{field}",))


def _call(raw: RawItem, door: Door) -> Projected:
    """`calls[]`: times in seconds, ids in `from`, `to` or `recipient_id` (webhooks reference, 5.7)."""
    call = raw.value
    psid = _person(raw.page_id, (call.get(key) for key in ("from", "to", "recipient_id")))
    item = Item.model_construct(timestamp=read_time(call.get("timestamp")))
    context = _context(raw, item, door)._replace(psid=psid)
    key = None
    if text_id(call.get("id")) and isinstance(call.get("event"), str):
        session = call.get("session")
        version = session.get("version") if isinstance(session, dict) else None
        key = "call:" + sha256(canonical([call["id"], call["event"], call.get("call_status"), version])).hexdigest()
    return Projected(event_rows(context, "call", call, key=key), ("call",))


def _person(page_id: str, ids: Iterable[object]) -> str | None:
    """Return whoever is not the Page."""
    psid = next((psid for psid in map(text_id, ids) if psid is not None and psid != page_id), None)
    if psid is not None and len(psid) > MAX_ID:
        raise ItemError(f"a person's id has more than {MAX_ID} characters")
    return psid

"""Turn one item into rows: every kind of the event catalogue becomes state, or is kept as an event.

`project` decides by which key an item holds, never by the name of a subscribed field: one item may hold a message and
an order, or a referral and a lead. All that follows is a function of the item and its delivery alone.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from app.webhook.message import message_rows
from app.webhook.payload import EditBody, Item, PostbackBody, ReactionBody, ReceiptBody, milliseconds, read_time
from sql.json_values import canonical, dumps
from sql.mids import canonical_mid
from sql.rows import Conversation, Event, Message, Reaction, Row

if TYPE_CHECKING:
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


# keys of an item, besides those that become state, that are events; the name is the kind
EVENT_KINDS = {
    "account_linking": "account_linking",
    "app_roles": "app_roles",
    "branded_camera": "branded_camera",
    "call_permission_reply": "call_permission_reply",
    "call_settings": "call_settings_update",
    "call_settings_update": "call_settings_update",
    "checkout_update": "checkout_update",
    "form_id": "in_thread_lead_form_submit",
    "game_play": "game_play",
    "in_thread_lead_form_submit": "in_thread_lead_form_submit",
    "message_context": "message_context",
    "message_request": "message_request",
    "message_template_status_update": "message_template_status_update",
    "messaging_customer_information": "customer_information",
    "messaging_feedback": "messaging_feedback",
    "messaging_in_thread_lead_form_submit": "in_thread_lead_form_submit",
    "optin": "optin",
    "optout": "optout",
    "order": "order",
    "pass_thread_control": "pass_thread_control",
    "payment": "payment",
    "policy-enforcement": "policy_enforcement",
    "policy_enforcement": "policy_enforcement",
    "pre_checkout": "pre_checkout",
    "referral": "referral",
    "request_thread_control": "request_thread_control",
    "response_feedback": "response_feedback",
    "take_thread_control": "take_thread_control",
    "marketing_message_clicks": "marketing_message_clicks",
    "marketing_message_deliveries": "marketing_message_deliveries",
    "marketing_message_delivery_failed": "marketing_message_delivery_failed",
    "marketing_message_echoes": "marketing_message_echoes",
    "marketing_message_reads": "marketing_message_reads",
}
# `changes[].field` of which the catalogue knows; the field is the kind
CHANGE_KINDS = {
    "business_integrity",
    "feed",
    "group_feed",
    "inbox_labels",
    "mention",
    "message_context",
    "message_template_status_update",
    "messenger_template_status_update",
    "messaging_customer_information",
    "messaging_integrity",
    "messaging_in_thread_lead_form_submit",
    "messaging_optouts",
    "messaging_policy_enforcement",
    "call_settings_update",
}
_STATE_KEYS = {"message", "message_edit", "reaction", "postback", "delivery", "read"}
# what stands beside a main key and tells about it; never a main key of its own
_SIDE_KEYS = {"sender", "recipient", "timestamp", "prior_message", "hop_context", "lead", "is_self"}


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
        kinds.append("echo" if item.message.is_echo else "deleted" if item.message.is_deleted else "message")
        sides = {k: value[k] for k in ("prior_message", "hop_context") if value.get(k) is not None}
        rows += message_rows(context, item.message, sides) or [_event(context, "message", value, item.message.mid)]
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
            rows.append(_receipt(context, kind, receipt, value))
    named: list[str] = []
    unknown: list[str] = []
    others = value.keys() - _SIDE_KEYS
    if not kinds or len(kinds) != len(others):
        for key in sorted(others - _STATE_KEYS):
            if key in EVENT_KINDS:
                named.append(EVENT_KINDS[key])
            else:
                unknown.append(key)
        if named or unknown or not kinds:
            rows.append(_event(context, named[0] if named else "unknown", value))
        kinds += named
    return Projected(rows, tuple(kinds) or ("unknown",), tuple(unknown))


def _reason(error: ValidationError) -> str:
    """Say where and what, without the value: it may be private."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'item'}: {first['msg']}"


def _context(raw: RawItem, item: Item, door: Door) -> Context:
    """Work out who and when.

    Labels are not to be trusted (doc samples swap them): the person is whoever is not the Page.
    """
    sender = item.sender.id if item.sender else None
    recipient = item.recipient.id if item.recipient else None
    psid = next((party for party in (sender, recipient) if party is not None and party != raw.page_id), None)
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
        return [_event(context, "postback", value, postback.mid, key="postback:" + sha256(identity).hexdigest())]
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
            sent_at_rank=2 if context.is_estimated else 0,
            original=dumps(original),
            webhook_seen_at=context.door.received_at,
            delivery_day=context.door.day,
            delivery_id=context.door.id,
        ),
    ]


def _edit(context: Context, edit: EditBody, value: dict[str, Any]) -> list[Row]:
    mid = canonical_mid(edit.mid, context.platform)
    # Instagram sends new messages as `message_edit` without text and often without sender (webhooks reference, 5.3)
    if context.psid is None or edit.text is None:
        return [_event(context, "message_edit", value, mid)]
    return [
        Conversation(context.page_id, context.psid, context.platform),
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
    if context.psid is None or context.sender is None:
        return [_event(context, "reaction", value, mid)]
    door = context.door
    is_removed = reaction.action == "unreact"
    return [
        Conversation(context.page_id, context.psid, context.platform),
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


def _receipt(context: Context, kind: str, receipt: ReceiptBody, value: dict[str, Any]) -> Row:
    if receipt.watermark is None or context.psid is None:
        mid = canonical_mid(receipt.mid, context.platform) if receipt.mid else None
        return _event(context, kind, value, mid)
    return Conversation(
        context.page_id,
        context.psid,
        context.platform,
        delivered_watermark=receipt.watermark if kind == "delivery" else None,
        read_watermark=receipt.watermark if kind == "read" else None,
    )


def _event(
    context: Context, kind: str, value: dict[str, Any], mid: str | None = None, *, key: str | None = None
) -> Event:
    """Keep an item whole. Its key is its identity, else its content: never the time at which Facebook sent it."""
    door = context.door
    return Event(
        context.page_id,
        key or sha256(canonical(value)).hexdigest(),
        context.psid,
        kind,
        context.via,
        canonical_mid(mid, context.platform) if mid else None,
        context.at,
        context.is_estimated,
        dumps(value),
        door.received_at,
        door.day,
        door.id,
    )


def _change(raw: RawItem, door: Door) -> Projected:
    """`changes[{field, value}]`: a messaging item in another envelope, or an event of the Page."""
    value, field = raw.value.get("value"), raw.value.get("field")
    if not isinstance(field, str) or not field:
        raise ItemError("field: a change must name its field")
    inner = value if isinstance(value, dict) else {}
    if inner.keys() & _STATE_KEYS and inner.keys() & {"sender", "recipient"}:
        return _item(raw, inner, door)
    user = inner.get("user")
    item = Item.model_construct(timestamp=read_time(inner.get("timestamp") or inner.get("created_time")))
    context = _context(raw, item, door)
    if isinstance(user, dict) and isinstance(user.get("id"), (str, int)):
        context = context._replace(psid=str(user["id"]))
    kind = field if field in CHANGE_KINDS or field in EVENT_KINDS else "unknown"
    unknown = (f"changes:{field}",) if kind == "unknown" else ()
    return Projected([_event(context, kind, raw.value)], (kind,), unknown)


def _call(raw: RawItem, door: Door) -> Projected:
    """`calls[]`: times in seconds, ids in `from`, `to` or `recipient_id` (webhooks reference, 5.7)."""
    call = raw.value
    parties = (str(call[k]) for k in ("from", "to", "recipient_id") if isinstance(call.get(k), (str, int)))
    psid = next((p for p in parties if p and p != raw.page_id), None)
    item = Item.model_construct(timestamp=read_time(call.get("timestamp")))
    context = _context(raw, item, door)._replace(psid=psid)
    key = None
    if isinstance(call.get("id"), (str, int)) and isinstance(call.get("event"), str):
        session = call.get("session")
        version = session.get("version") if isinstance(session, dict) else None
        key = "call:" + sha256(canonical([call["id"], call["event"], call.get("call_status"), version])).hexdigest()
    return Projected([_event(context, "call", call, key=key)], ("call",))

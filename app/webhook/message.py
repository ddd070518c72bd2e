"""A `message` item as rows: the message's original register, its attachments, or its tombstone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.webhook.items import text_id
from sql.attachments import Links, attachment, without_sticker_twins
from sql.json_values import dumps
from sql.mids import canonical_mid
from sql.rows import SENT_BY_WEBHOOK_CLOCK, SENT_ESTIMATED, Conversation, Message, Row

if TYPE_CHECKING:
    from app.webhook.payload import MessageBody
    from app.webhook.projection import Context


def message_rows(context: Context, message: MessageBody, sides: dict[str, Any]) -> list[Row]:
    """Return the rows of a message, an echo, a standby copy of either, or an unsend.

    None for a message that names no person: it belongs to no conversation. An unsend still finds its message.

    `sides` is what stood beside the message in its item and tells about it.
    """
    if context.psid is None and not message.is_deleted:
        return []
    direction = "outbound" if message.is_echo or context.is_from_page else "inbound" if context.psid else None
    mid = canonical_mid(message.mid, context.platform)
    day, delivery_id = context.door.day, context.door.id
    if message.is_deleted:
        tombstone = Message(
            context.page_id,
            mid,
            context.psid,
            direction=direction,
            deleted_at=context.at,
            deleted_at_is_estimated=context.is_estimated,
            delivery_day=day,
            delivery_id=delivery_id,
        )
        return [*conversation_rows(context), tombstone]
    links: Links = {}
    original = _original(context, message, links)
    original.update(sides)
    row = Message(
        context.page_id,
        mid,
        context.psid,
        direction=direction,
        sent_at=context.at,
        sent_at_rank=SENT_ESTIMATED if context.is_estimated else SENT_BY_WEBHOOK_CLOCK,
        original=dumps(original),
        links=dumps(links) if links else None,
        webhook_seen_at=context.door.received_at,
        delivery_day=day,
        delivery_id=delivery_id,
    )
    return [*conversation_rows(context), row]


def conversation_rows(context: Context) -> list[Row]:
    """The conversation of an item's person, if it names one."""
    return [] if context.psid is None else [Conversation(context.page_id, context.psid, context.platform)]


def _original(context: Context, message: MessageBody, links: Links) -> dict[str, Any]:
    """The original register: what the message holds, absent fields left out."""
    # `seq` was removed in 2019
    original = {k: v for k, v in (message.model_extra or {}).items() if v is not None and k != "seq"}
    if message.text is not None:
        original["text"] = message.text
    if message.app_id is not None:
        original["app_id"] = message.app_id
    if message.reply_to is not None:
        details = message.reply_to if isinstance(message.reply_to, dict) else {"reply_to": message.reply_to}
        replied = text_id(details.get("mid"))
        if replied is not None:
            original["reply_to"] = canonical_mid(replied, context.platform)
        rest = {k: v for k, v in details.items() if k != "mid" and v is not None}
        if rest:
            original["reply_to_details"] = rest
    attachments = _attachments(message, links)
    if attachments:
        original["attachments"] = attachments
    return original


def _attachments(message: MessageBody, links: Links) -> list[dict[str, Any]]:
    values = message.attachments or []
    shaped = [_attachment(value, links) for value in (values if isinstance(values, list) else [values])]
    if message.sticker_id is not None and not any("sticker_id" in a for a in shaped):
        # its place before it moved into the attachment
        image = next((a for a in shaped if a["type"] in {"image", "sticker"}), None)
        if image is None:
            shaped.append({"type": "sticker", "sticker_id": message.sticker_id})
        else:
            image.update(type="sticker", sticker_id=message.sticker_id)
    return without_sticker_twins(shaped)


def _attachment(value: Any, links: Links) -> dict[str, Any]:
    """Shape one attachment. Fallbacks have carried their link in four places (webhooks reference, 5.1)."""
    if not isinstance(value, dict):
        value = {"payload": value}  # of no shape that is known, and yet a part of the message
    payload = value.get("payload")
    fields: dict[str, Any] = dict(payload) if isinstance(payload, dict) else {}
    kind = value.get("type")
    type_ = kind if isinstance(kind, str) and kind else "unknown"
    link = _first_text(fields.pop("url", None), value.get("url"), value.get("URL"))
    title = _first_text(fields.pop("title", None), value.get("title"))
    sticker_id = text_id(fields.get("sticker_id"))
    if sticker_id is not None:
        del fields["sticker_id"]
    if sticker_id is not None and type_ == "image":
        type_ = "sticker"  # before 2026 a sticker came as an image with a sticker_id
    extra = {k: v for k, v in fields.items() if v is not None}
    if payload is not None and not isinstance(payload, dict):
        extra["payload"] = payload
    for key, other in value.items():
        if key not in {"type", "payload", "url", "URL", "title"} and other is not None:
            extra.setdefault(key, other)
    return attachment(type_, link, links, title=title, sticker_id=sticker_id, extra=extra)


def _first_text(*values: object) -> str | None:
    return next((v for v in values if isinstance(v, str) and v), None)

"""Webhook items: what Facebook would tell an app of one thing that happened (webhooks sheet, sections 4 and 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.attachments import Cdn, webhook_forms

if TYPE_CHECKING:
    from simulator.message import Message

# the subscription field by which an app gets an item of each kind
FIELDS = {
    "message": "messages",
    "unsend": "messages",
    "echo": "message_echoes",
    "message_edit": "message_edits",
    "reaction": "message_reactions",
    "read": "message_reads",
    "delivery": "message_deliveries",
    "postback": "messaging_postbacks",
    "referral": "messaging_referrals",
    "handover": "messaging_handovers",
    "optin": "messaging_optins",
    "optin_without_person": "messaging_optins",
    "account_linking": "messaging_account_linking",
    "feedback": "messaging_feedback",
    "policy_enforcement": "messaging_policy_enforcement",
    "order": "send_cart",
    "inbox_label": "inbox_labels",
    "call": "calls",
    "app_roles": "messaging_handovers",
    "thread_request": "messaging_handovers",
}
# what can be subscribed to besides (webhooks sheet, section 5)
_OTHER_FIELDS = (
    "business_integrity",
    "call_permission_reply",
    "call_settings_update",
    "conversations",
    "feed",
    "group_feed",
    "mention",
    "message_context",
    "message_template_status_update",
    "messaging_customer_information",
    "messaging_game_plays",
    "messaging_in_thread_lead_form_submit",
    "messaging_integrity",
    "messaging_optouts",
    "messaging_payments",
    "response_feedback",
    "standby",
)
ALL_FIELDS = tuple(sorted({*FIELDS.values(), *_OTHER_FIELDS}))


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One element of `entry[].{via}[]`. `at_ms` is when it happened; `mid` the message it is about, if one.

    Two items are equal only when they are the same one: each stands for one happening.
    """

    page_id: str
    psid: str | None
    kind: str
    via: str
    at_ms: int
    value: dict[str, Any]
    mid: str | None = None

    @property
    def field(self) -> str:
        """The subscription field it comes by."""
        return "standby" if self.via == "standby" else FIELDS.get(self.kind, self.kind)


@dataclass(frozen=True, slots=True)
class Parties:
    """Who an item is between, and by which list of the entry it comes."""

    page_id: str
    psid: str
    via: str

    def item(self, kind: str, at_ms: int, body: dict[str, Any], *, mid: str | None = None, out: bool = False) -> Item:
        """Make an item; `out` when the Page is its sender. `body` comes after the envelope's own keys."""
        sender, recipient = (self.page_id, self.psid) if out else (self.psid, self.page_id)
        value: dict[str, Any] = {"sender": {"id": sender}, "recipient": {"id": recipient}}
        if kind != "delivery":  # the documented sample of a delivery has no timestamp
            value["timestamp"] = at_ms
        value.update(body)
        return Item(self.page_id, self.psid, kind, self.via, at_ms, value, mid)


def message_item(parties: Parties, message: Message, cdn: Cdn, *, sticker_pairs: bool) -> Item:
    """Return a message, an echo, or a postback."""
    extra = dict(message.extra or {})
    if "postback" in extra:
        postback = {"mid": message.mid, "title": message.text, **extra["postback"]}
        if parties.via == "standby":  # the payload is for the app that sent the button
            postback.pop("payload", None)
        return parties.item("postback", message.at, {"postback": postback}, mid=message.mid)
    body: dict[str, Any] = {"mid": message.mid}
    if message.is_from_page:
        # Meta's own sample of an echo in standby has the mid without its prefix (webhooks sheet, section 4)
        mid = message.mid.removeprefix("m_") if parties.via == "standby" else message.mid
        body = {"is_echo": True, "mid": mid}
    if message.text is not None:
        body["text"] = message.text
    body.update(extra)
    if message.reply_to is not None:
        body["reply_to"] = {"mid": message.reply_to, "is_self_reply": False}
    if message.attachments:
        body["attachments"] = [
            form
            for attachment in message.attachments
            for form in webhook_forms(attachment, cdn, message.at // 1000, sticker_pairs=sticker_pairs)
        ]
    kind = "echo" if message.is_from_page else "message"
    return parties.item(kind, message.at, {"message": body}, mid=message.mid, out=message.is_from_page)

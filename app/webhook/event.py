"""An item that is no state of a message or conversation: kept whole, as an event of a known or unknown kind."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from app.webhook.message import conversation_rows
from sql.json_values import canonical, dumps
from sql.mids import canonical_mid
from sql.rows import Event, Row

if TYPE_CHECKING:
    from app.webhook.projection import Context

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
# `changes[].field`, besides the keys above, of which the catalogue knows; the name is the kind
CHANGE_KINDS = {
    "business_integrity": "business_integrity",
    "conversations": "conversations",
    "feed": "feed",
    "group_feed": "group_feed",
    "inbox_labels": "inbox_labels",
    "mention": "mention",
    "messaging_integrity": "messaging_integrity",
    "messaging_optouts": "optout",
    "messaging_policy_enforcement": "policy_enforcement",
    "messenger_template_status_update": "message_template_status_update",
}
# what an event must not hold in clear: each lets its bearer act for the person
_SECRETS = {
    "account_linking": {"authorization_code"},
    "optin": {"notification_messages_token", "one_time_notif_token"},
}


def event_rows(
    context: Context, kind: str, value: dict[str, Any], mid: str | None = None, *, key: str | None = None
) -> list[Row]:
    """Keep an item whole, but for its secrets. Its key is its identity, else its content.

    Never the time at which Facebook sent it: that may differ when it sends the same item again.
    """
    door = context.door
    event = Event(
        context.page_id,
        key or sha256(canonical(value)).hexdigest(),
        context.psid,
        kind,
        context.via,
        canonical_mid(mid, context.platform) if mid else None,
        context.at,
        context.is_estimated,
        dumps(_without_secrets(value)),
        door.received_at,
        door.day,
        door.id,
    )
    return [*conversation_rows(context), event]


def _without_secrets(value: dict[str, Any]) -> dict[str, Any]:
    """Put a fingerprint in a secret's place: alike for the same secret. The journal alone keeps what came."""
    for key in value.keys() & _SECRETS.keys():
        inner = value[key]
        if isinstance(inner, dict):
            secrets = {
                k: f"sha256:{sha256(canonical(inner[k])).hexdigest()[:16]}" for k in inner.keys() & _SECRETS[key]
            }
            value = {**value, key: inner | secrets}
    return value

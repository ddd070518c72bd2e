"""Webhooks of what leaves no trace in Graph: opt-ins, labels, calls and the like (webhooks sheet, sections 5 and 5.5).

A mirror can only keep them; shapes that no sheet documents are not made here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from simulator.items import Item

if TYPE_CHECKING:
    from collections.abc import Callable


class _Kind(NamedTuple):
    """How an event comes. `body` is made of (person, number, time in seconds); `via` is the list it stands in.

    The documented sample of feedback has no timestamp (webhooks sheet, 4).
    """

    body: Callable[[str, int, int], dict[str, Any]]
    via: str = "messaging"
    names_person: bool = True
    is_timed: bool = True


def _optin(_: str, number: int, now: int) -> dict[str, Any]:
    return {
        "optin": {
            "type": "notification_messages",
            "payload": f"OPTIN_{number}",
            "title": "Weekly offers",
            "notification_messages_token": f"token-{number}",
            "notification_messages_timezone": "Europe/Berlin",
            "token_expiry_timestamp": (now + 180 * 86_400) * 1000,
            "user_token_status": "NOT_REFRESHED",
        }
    }


def _feedback(_: str, number: int, __: int) -> dict[str, Any]:
    answer = {
        "type": "csat",
        "payload": str(number % 5 + 1),
        "follow_up": {"type": "free_form", "payload": "Très bien"},
    }
    return {"messaging_feedback": {"feedback_screens": [{"screen_id": 0, "questions": {f"q{number}": answer}}]}}


def _order(_: str, number: int, __: int) -> dict[str, Any]:
    product = {"id": str(number), "retailer_id": "sku-1", "name": "Größe L", "unit_price": 12.5, "currency": "EUR"}
    return {"order": {"products": [product | {"quantity": 1}], "source": "COMMERCE", "note": "Danke!"}}


def _label(psid: str, number: int, _: int) -> dict[str, Any]:
    value = {"user": {"id": psid}, "action": "add", "label": {"id": str(number), "name": "VIP"}}
    return {"field": "inbox_labels", "value": value}


def _call(psid: str, number: int, now: int) -> dict[str, Any]:
    call = {"id": f"c_{number}", "timestamp": now}
    if number % 2:
        times = {"start_time": now - 66, "end_time": now, "duration": 66}
        return {**call, "event": "terminate", "status": "Completed", **times}
    return {**call, "from": psid, "event": "connect", "call_direction": "user_initiated"}


KINDS = {
    "optin": _Kind(_optin),
    "optin_without_person": _Kind(
        lambda _, n, __: {"optin": {"ref": f"checkbox-{n}", "user_ref": f"ref-{n}"}}, names_person=False
    ),
    "account_linking": _Kind(
        lambda _, n, __: {"account_linking": {"status": "linked", "authorization_code": f"code-{n}"}},
    ),
    "feedback": _Kind(_feedback, is_timed=False),
    "policy_enforcement": _Kind(
        lambda *_: {"policy_enforcement": {"action": "block", "reason": "The bot violated our Platform Policies"}},
        names_person=False,
    ),
    "order": _Kind(_order),
    "inbox_label": _Kind(_label, via="changes"),
    "call": _Kind(_call, via="calls"),
    "thread_request": _Kind(
        lambda _, n, __: {"request_thread_control": {"requested_owner_app_id": n, "metadata": "mine, please"}}
    ),
    "app_roles": _Kind(lambda _, n, __: {"app_roles": {str(n): ["primary_receiver"]}}, names_person=False),
}


def event_item(kind: str, page_id: str, psid: str, number: int, at_ms: int) -> Item:
    """Make an event; `number` tells it from others of its kind."""
    made = KINDS[kind]
    body = made.body(psid, number, at_ms // 1000)
    if made.via == "messaging":
        sender = {"sender": {"id": psid}} if made.names_person else {}
        when = {"timestamp": at_ms} if made.is_timed else {}
        body = {**sender, "recipient": {"id": page_id}, **when, **body}
    elif made.via == "calls" and "from" in body:
        body = {**body, "to": page_id}
    return Item(page_id, psid if made.names_person else None, kind, made.via, at_ms, body)

"""Attachments, as each door shows them.

A webhook's payload and Graph's node of one attachment share neither shape nor host nor signature; the file's name in
the link is the same. What Graph shows for kinds that no sheet documents (reels, posts, places, products, bookings,
templates that are not generic) is assumed to be nothing. `webhook_type` and `graph_type` say what to expect of each.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from simulator.texts import LINK_TITLES

if TYPE_CHECKING:
    from simulator.dice import Dice

MEDIA_KINDS = ("image", "gif", "video", "audio", "file")
# what a person attaches, and what a Page does
_POSTS = ("reel", "post", "ig_reel", "ig_post")
INBOUND_KINDS = (*MEDIA_KINDS, "sticker", "fallback", "location", *_POSTS, "product", "booking")
OUTBOUND_KINDS = (*MEDIA_KINDS, "sticker", "fallback", "old_fallback", "template", "buttons", "media_template")
KINDS = tuple(dict.fromkeys((*INBOUND_KINDS, *OUTBOUND_KINDS)))

_WEBHOOK_TYPE = {
    "gif": "image",
    "product": "template",
    "booking": "appointment_booking",
    "old_fallback": "fallback",
    "buttons": "template",
    "media_template": "template",
}
# None: Graph does not show it
_GRAPH_TYPE = {
    "gif": "image",
    "old_fallback": "fallback",
    **dict.fromkeys((*_POSTS, "location", "product", "booking", "buttons", "media_template")),
}
_FILE = {
    "image": ("jpg", "image/jpeg", "t1.15752-9"),
    "gif": ("gif", "image/gif", "t1.15752-9"),
    "video": ("mp4", "video/mp4", "t42.3356-2"),
    "audio": ("mp4", "audio/mp4", "t59.3654-21"),
    "file": ("pdf", "application/pdf", "t59.2708-21"),
    "sticker": ("png", "image/png", "t39.1997-6"),
}
_HOUR = 3600
# measured in public fixtures (webhooks sheet, 5.6): images 35 hours, stickers about 100 days
_LIFETIME = {"sticker": 100 * 24 * _HOUR}


class Attachment(NamedTuple):
    """One attachment. `asset` is its number; the rest is derived from it."""

    kind: str
    asset: int

    @property
    def webhook_type(self) -> str:
        """The `type` in a webhook's payload."""
        return _WEBHOOK_TYPE.get(self.kind, self.kind)

    @property
    def graph_type(self) -> str | None:
        """What Graph's node amounts to, in the webhook's words; None when Graph does not show it."""
        return _GRAPH_TYPE.get(self.kind, self.kind)

    @property
    def file_name(self) -> str:
        """The last part of a media's link, alike at both doors."""
        ending = _FILE[self.kind][0]
        return f"{self.asset % 1_000_000_000}_{self.asset}_{self.asset * 7919 % 10**19}_n.{ending}"

    @property
    def link(self) -> str:
        """The unsigned link of what is no media: alike at both doors."""
        if self.kind in _POSTS:
            place, what = self.kind.rpartition("_")[::2]
            site = "https://www.instagram.com" if place else "https://www.facebook.com"
            # some links of reels are relative (webhooks sheet, 5.1)
            return f"/reel/{self.asset}" if what == "reel" and self.asset % 4 == 0 else f"{site}/{what}/{self.asset}"
        return f"https://example.org/page/{self.asset}?from=messenger&lang=en"

    @property
    def title(self) -> str:
        """The title of a link or a template."""
        return f"{LINK_TITLES[self.asset % len(LINK_TITLES)]} {self.asset % 100_000}"

    @property
    def identity(self) -> str:
        """A text that stands in every form of this attachment at every door, and in no other attachment."""
        if self.kind in _FILE:
            return self.file_name
        if self.kind in {"fallback", "old_fallback", *_POSTS}:
            return self.link
        if self.kind == "location":
            return str(self.longitude)
        return self.title if self.kind in {"template", "buttons"} else str(self.asset)

    @property
    def longitude(self) -> float:
        """Where a place is; its latitude is always the same."""
        return self.asset / 10**13


class Cdn:
    """Signs links: each call gives another link, with another signature, to the same file.

    `now` is in epoch seconds.
    """

    def __init__(self) -> None:
        self._signed = 0

    def sign(self, attachment: Attachment, door: str, now: int, size: str = "") -> str:
        """Return a link to a media, valid for its lifetime from `now`; `door` is "webhook" or "graph"."""
        self._signed += 1
        folder = _FILE[attachment.kind][2]
        nonce = blake2b(f"{attachment.asset} {door} {self._signed}".encode(), digest_size=16).hexdigest()
        name, is_file = attachment.file_name, attachment.kind in {"audio", "file"}
        if door == "webhook":
            host = "cdn.fbsbx.com" if is_file else "scontent.xx.fbcdn.net"
        else:
            # the nearest of many hosts
            place = ("fra3-1", "fra5-2", "waw1-1", "ber1-1")[self._signed % 4]
            host = "cdn.fbsbx.com" if is_file else f"scontent-{place}.xx.fbcdn.net"
        oe = now + _LIFETIME.get(attachment.kind, 35 * _HOUR)
        return (
            f"https://{host}/v/{folder}/{size}{name}?_nc_cat={self._signed % 9 + 101}&ccb=1-7&_nc_sid=58c789"
            f"&_nc_ohc={nonce[:20]}&_nc_ht={host.partition('.')[0]}&oh=00_{nonce}&oe={oe:X}"
        )


def roll_attachments(dice: Dice, *, outbound: bool) -> tuple[Attachment, ...]:
    """Return the attachments of a message: one, or an album of images."""
    kind = dice.pick(OUTBOUND_KINDS if outbound else INBOUND_KINDS)
    count = 2 + dice.below(3) if kind == "image" and dice.chance(0.3) else 1
    return tuple(Attachment(kind, 10**14 + dice.below(9 * 10**14)) for _ in range(count))


def webhook_forms(attachment: Attachment, cdn: Cdn, now: int, *, sticker_pairs: bool) -> list[dict[str, Any]]:
    """Return the elements of `message.attachments` (webhooks sheet, 5.1); two for a sticker before 30 Aug 2026."""
    kind, asset = attachment.kind, attachment.asset
    type_ = attachment.webhook_type
    payload: dict[str, Any]
    if kind in MEDIA_KINDS:
        payload = {"url": cdn.sign(attachment, "webhook", now)}
    elif kind == "sticker":
        payload = {"url": cdn.sign(attachment, "webhook", now), "sticker_id": asset}
        if sticker_pairs:
            return [{"type": "sticker", "payload": payload}, {"type": "image", "payload": dict(payload)}]
    elif kind == "fallback":
        payload = {"url": attachment.link, "title": attachment.title}
    elif kind == "old_fallback":
        return [{"title": attachment.title, "url": attachment.link, "type": type_, "payload": None}]
    elif kind in _POSTS:
        number = "reel_video_id" if kind.endswith("reel") else "id"
        payload = {"url": attachment.link, "title": attachment.title, number: asset}
    elif kind == "template":
        button = {"type": "web_url", "url": attachment.link, "title": "Open"}
        element = {"title": attachment.title, "subtitle": "€ 12,50", "buttons": [button]}
        payload = {"template_type": "generic", "elements": [element]}
    elif kind == "buttons":
        button = {"type": "web_url", "url": attachment.link, "title": "Open"}
        payload = {"template_type": "button", "text": attachment.title, "buttons": [button]}
    elif kind == "media_template":
        body = {"template_type": "media", "elements": [{"media_type": "image", "attachment_id": asset}]}
        return [{"title": "", "url": attachment.link, "type": type_, "payload": body}]
    elif kind == "location":
        payload = {"coordinates": {"lat": 52.5, "long": attachment.longitude}}
    elif kind == "product":
        element = {"id": str(asset), "retailer_id": "sku-1", "title": attachment.title, "subtitle": "$40"}
        image = f"https://scontent.xx.fbcdn.net/v/{asset}.jpg"
        payload = {"product": {"elements": [element | {"image_url": image}]}}
    else:
        times = {"start_time": now + 86400, "end_time": now + 90000, "timezone": "America/Los_Angeles"}
        payload = {"booking_id": str(asset), "status": "requested", **times}
    return [{"type": type_, "payload": payload}]


def graph_node(attachment: Attachment, cdn: Cdn, now: int) -> dict[str, Any] | None:
    """Return the element of Graph's `attachments` edge (Graph sheet, 2.2); None when it is not shown there."""
    kind, asset = attachment.kind, attachment.asset
    node_id = str(asset + 3_570_667)  # its own id, not the number in the file's name
    if kind == "template":
        cta = {"title": "Open", "type": "open_url", "url": attachment.link}
        template = {"title": attachment.title, "subtitle": "€ 12,50", "cta": cta}
        return {"id": node_id, "generic_template": template}
    if kind not in MEDIA_KINDS:
        return None
    ending, mime_type, _ = _FILE[kind]
    name = f"invoice {asset % 1000}.pdf" if kind == "file" else f"{kind}-{node_id}"
    size = asset % 5_000_000 + 1_000
    is_sized = kind not in {"image", "gif"} or asset % 5 != 0  # null for some images (2.2)
    node: dict[str, Any] = {"id": node_id, "mime_type": mime_type, "name": name, "size": size if is_sized else None}
    if kind in {"audio", "file"}:
        node["name"] = name if kind == "file" else f"audioclip-{node_id}.{ending}"
        node["file_url"] = cdn.sign(attachment, "graph", now)
        return node
    width, height = asset % 1500 + 300, asset % 900 + 200
    url = cdn.sign(attachment, "graph", now)
    preview = cdn.sign(attachment, "graph", now, size="p280x280/")
    if kind == "video":
        node["video_data"] = {
            "width": width,
            "height": height,
            "length": asset % 90 + 1,
            "video_type": 1,
            "rotation": 0,
            "url": url,
            "preview_url": preview,
        }
        return node
    image = {
        "width": width,
        "height": height,
        "max_width": width,
        "max_height": height,
        "url": url,
        "preview_url": preview,
        "image_type": 1 if kind == "image" else 2,
        "render_as_sticker": False,
    }
    if kind == "gif":
        image["animated_gif_url"] = cdn.sign(attachment, "graph", now)
        image["animated_gif_preview_url"] = cdn.sign(attachment, "graph", now, size="p280x280/")
    node["image_data"] = image
    return node


def graph_share(attachment: Attachment) -> dict[str, Any] | None:
    """Return the element of Graph's `shares` edge; None when it is none."""
    if attachment.kind not in {"fallback", "old_fallback"}:
        return None
    return {"id": str(attachment.asset), "link": attachment.link, "name": attachment.title, "description": None}

"""Attachments of both doors, joined; links, whose signatures expire."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.sql.doors import START, answered, at, delivered, node, said, write
from tests.sql.mirrored import after

if TYPE_CHECKING:
    from sql.upsert import Connection

PLAIN = "https://*.fbcdn.net/v/{}.jpg"
DAY = timedelta(days=1)


def signed(name: str = "a", *, days: float = 30, signature: str = "1", host: str = "scontent-one") -> str:
    """A link that expires so many days after the tests' first moment."""
    expires = int((START + days * DAY).timestamp())
    return f"https://{host}.xx.fbcdn.net/v/{name}.jpg?_nc_ohc=x&oh={signature}&oe={expires:x}"


def picture(link: str, kind: str = "image") -> dict[str, Any]:
    return {"type": kind, "payload": {"url": link}}


def graphs_picture(link: str, **more: Any) -> dict[str, Any]:
    return {"id": "77", "mime_type": "image/jpeg", "image_data": {"url": link, "width": 5}, **more}


def shown(*attachments: dict[str, Any], **more: Any) -> dict[str, Any]:
    return node(None, attachments={"data": list(attachments)}, **more)


async def attachments(mirror: Connection) -> Any:
    return await mirror.fetchval("SELECT attachments FROM messages")


async def test_an_attachment_of_both_doors_is_seen_once_with_what_either_knows(mirror: Connection) -> None:
    webhook = delivered(said(None, attachments=[picture("https://a.example/w", "image")]))
    graph = answered(shown(graphs_picture("https://a.example/g", name="a.jpg", size=3)))
    assert (await after(mirror, webhook, graph)).message["attachments"] == [
        {
            "type": "image",
            "url": "https://a.example/g",
            "mime_type": "image/jpeg",
            "name": "a.jpg",
            "size": 3,
            "graph_id": "77",
            "extra": {"width": 5},
        }
    ]


async def test_what_only_the_webhook_told_of_an_attachment_stays(mirror: Connection) -> None:
    payload = {"url": "https://a.example/w", "title": "A reel", "reel_video_id": 9}
    webhook = delivered(said(None, attachments=[{"type": "video", "payload": payload}]))
    graph = answered(shown({"id": "78", "mime_type": "video/mp4", "video_data": {"length": 4}}))
    [attachment] = (await after(mirror, webhook, graph)).message["attachments"]
    assert attachment == {
        "type": "video",
        "url": "https://a.example/w",
        "title": "A reel",
        "mime_type": "video/mp4",
        "graph_id": "78",
        "extra": {"reel_video_id": 9, "length": 4},
    }


async def test_the_second_of_a_kind_meets_the_second_of_that_kind(mirror: Connection) -> None:
    webhook = delivered(
        said(
            None,
            attachments=[
                picture("https://a.example/1"),
                picture("https://a.example/f", "file"),
                picture("https://a.example/2"),
            ],
        )
    )
    graph = answered(
        shown(
            graphs_picture("https://g.example/1"),
            graphs_picture("https://g.example/2"),
            graphs_picture("https://g.example/3"),
        )
    )
    seen = (await after(mirror, webhook, graph)).message["attachments"]
    assert [(a["type"], a["url"]) for a in seen] == [
        ("image", "https://g.example/1"),
        ("file", "https://a.example/f"),
        ("image", "https://g.example/2"),
        ("image", "https://g.example/3"),
    ]


async def test_what_one_door_lacks_is_never_erased(mirror: Connection) -> None:
    webhook = delivered(said("text", attachments=[picture("https://a.example/w")]))
    stored = await after(mirror, webhook, answered(node("text"), observed=999), delivered(said("text"), number=2))
    assert [a["url"] for a in stored.message["attachments"]] == ["https://a.example/w"]


async def test_a_reading_of_graph_without_attachments_erases_none(mirror: Connection) -> None:
    older = answered(shown(graphs_picture("https://g.example/1")), observed=1)
    seen = (await after(mirror, older, answered(node("text"), observed=2))).message["attachments"]
    assert [a["url"] for a in seen] == ["https://g.example/1"]


async def test_graphs_sticker_and_shares_are_attachments_too(mirror: Connection) -> None:
    share = {"id": "5", "link": "https://shop.example/", "name": "Shop", "description": None}
    stored = await after(mirror, answered(node(None, sticker="https://a.example/s", shares={"data": [share]})))
    assert stored.message["attachments"] == [
        {"type": "sticker", "url": "https://a.example/s"},
        {"type": "fallback", "url": "https://shop.example/", "title": "Shop", "graph_id": "5"},
    ]


async def test_a_webhooks_sticker_and_graphs_are_one(mirror: Connection) -> None:
    sticker = {"type": "image", "payload": {"url": "https://a.example/w", "sticker_id": 369239263222822}}
    stored = await after(
        mirror, delivered(said(None, attachments=[sticker])), answered(node(None, sticker="https://a.example/g"))
    )
    [attachment] = stored.message["attachments"]
    assert attachment == {"type": "sticker", "url": "https://a.example/g", "sticker_id": "369239263222822"}


async def test_a_webhooks_link_preview_and_graphs_share_are_one(mirror: Connection) -> None:
    preview = {"type": "fallback", "payload": {"url": "https://shop.example/", "title": "Shop"}}
    share = {"id": "5", "link": "https://shop.example/", "name": "The shop"}
    stored = await after(mirror, delivered(said(attachments=[preview])), answered(node(shares={"data": [share]})))
    [attachment] = stored.message["attachments"]
    assert (attachment["url"], attachment["title"]) == ("https://shop.example/", "The shop")


async def test_of_two_lists_of_one_door_the_newer_reading_of_graph_stands_whole(mirror: Connection) -> None:
    older = answered(shown(graphs_picture("https://g.example/1"), graphs_picture("https://g.example/2")), observed=1)
    newer = answered(shown(graphs_picture("https://g.example/3")), observed=2)
    seen = (await after(mirror, older, newer)).message["attachments"]
    assert [a["url"] for a in seen] == ["https://g.example/3"]


# -- links --------------------------------------------------------------------------------------------------------


async def test_a_link_is_stored_without_its_signature_and_seen_with_it(mirror: Connection) -> None:
    link = signed(days=30)
    await write(mirror, delivered(said(None, attachments=[picture(link)])))
    row = await mirror.fetchrow("SELECT original, attachments FROM messages")
    assert row is not None
    assert row["original"]["attachments"] == [{"type": "image", "url": PLAIN.format("a")}]
    expires = (START.replace(microsecond=0) + 30 * DAY).isoformat()
    assert row["attachments"] == [{"type": "image", "url": link, "url_expires_at": expires}]


async def test_links_inside_an_attachment_are_signed_when_read_too(mirror: Connection) -> None:
    preview = signed("small", days=9)
    await write(mirror, answered(shown({"id": "1", "image_data": {"url": signed(), "preview_url": preview}})))
    stored = await mirror.fetchrow("SELECT graph, attachments FROM messages")
    assert stored is not None
    assert stored["graph"]["attachments"][1][0]["extra"] == {"preview_url": PLAIN.format("small")}
    assert stored["attachments"][0]["extra"] == {"preview_url": preview}


async def test_another_signature_of_a_link_is_no_change(mirror: Connection) -> None:
    told = [
        delivered(said(None, attachments=[picture(signed(days=days, signature=signature, host=host))]), number=number)
        for number, days, signature, host in ((1, 30, "1", "scontent-one"), (2, 40, "2", "scontent-two"))
    ]
    await write(mirror, told[0], now=at(0))
    before = await mirror.fetchrow("SELECT * FROM messages")
    counts = await write(mirror, told[1], now=at(1))
    assert await mirror.fetchrow("SELECT * FROM messages") == before
    assert (counts.inserted, counts.updated, counts.unchanged) == (0, 0, 1)


async def test_a_link_that_nears_its_end_is_rewritten_which_is_no_change_either(mirror: Connection) -> None:
    old, new = signed(days=2), signed(days=32, signature="2")
    await write(mirror, delivered(said(None, attachments=[picture(old)])), now=at(0))
    before = await mirror.fetchval("SELECT updated_at FROM messages")
    again = delivered(said(None, attachments=[picture(new)]), number=2)
    counts = await write(mirror, again, now=START + 0.9 * DAY)
    assert (await attachments(mirror))[0]["url"] == old
    counts = await write(mirror, again, now=START + 1.1 * DAY)
    assert (await attachments(mirror))[0]["url"] == new
    assert (counts.updated, counts.unchanged) == (0, 1)
    assert await mirror.fetchval("SELECT updated_at FROM messages") == before


async def test_an_older_signature_never_replaces_one_that_lives_longer(mirror: Connection) -> None:
    old, new = signed(days=0.2), signed(days=0.5, signature="2")
    for link in (new, old):
        await write(mirror, delivered(said(None, attachments=[picture(link)])), now=at(0))
    assert (await attachments(mirror))[0]["url"] == new


async def test_of_several_links_only_those_that_live_longer_are_rewritten(mirror: Connection) -> None:
    for days_of_a, days_of_b in ((0.2, 0.5), (0.3, 0.1)):
        pictures = [picture(signed("a", days=days_of_a)), picture(signed("b", days=days_of_b))]
        await write(mirror, delivered(said(None, attachments=pictures)), now=at(0))
    assert [a["url"] for a in await attachments(mirror)] == [signed("a", days=0.3), signed("b", days=0.5)]


async def test_the_link_of_an_attachment_that_is_new_is_kept_beside_the_others(mirror: Connection) -> None:
    webhook, graph = signed("w"), signed("g")
    stored = await after(
        mirror, delivered(said(None, attachments=[picture(webhook)])), answered(shown(graphs_picture(graph)))
    )
    assert stored.message["links"] == [PLAIN.format("g"), PLAIN.format("w")]
    assert [a["url"] for a in stored.message["attachments"]] == [PLAIN.format("g")]


async def test_two_files_of_the_network_are_two_links(mirror: Connection) -> None:
    stored = await after(mirror, delivered(said(None, attachments=[picture(signed("a")), picture(signed("b"))])))
    assert [a["url"] for a in stored.message["attachments"]] == [PLAIN.format("a"), PLAIN.format("b")]


async def test_a_link_elsewhere_stays_as_it_is(mirror: Connection) -> None:
    link = "https://l.facebook.example/?u=https%3A%2F%2Fshop.example%2F&h=AT0&ext=1&oe=7f000000"
    await write(mirror, delivered(said(None, attachments=[picture(link, "fallback")])))
    assert await attachments(mirror) == [{"type": "fallback", "url": link}]

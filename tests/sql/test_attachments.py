from __future__ import annotations

import pytest

from sql.attachments import Links, attachment, plain_link, without_sticker_twins
from sql.mids import canonical_mid

FILE = "https://scontent-ams2-1.xx.fbcdn.net/v/t1.15752-9/4410_n.jpg"
PLAIN = "https://*.fbcdn.net/v/t1.15752-9/4410_n.jpg"


def plain(link: str) -> str:
    return plain_link(link, {})


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?oh=03_A&oe=69105A00",
        "?_nc_cat=104&ccb=1-7&_nc_sid=58cb&efg=e30&_nc_ohc=Q&_nc_ht=x&edm=A&oh=03_B&oe=69205A00",
        "?stp=dst-jpg_s640x640&dl=1&oh=03_C&oe=0",
    ],
)
def test_a_file_is_the_same_whatever_its_signature(query: str) -> None:
    assert plain(FILE + query) == PLAIN


def test_a_file_is_the_same_whatever_host_serves_it() -> None:
    assert plain(FILE.replace("scontent-ams2-1.xx", "scontent.fosl4-1.fna")) == PLAIN


def test_files_that_differ_in_more_than_the_signature_stay_apart() -> None:
    links = [FILE, FILE + "?size=2", FILE + "?size=3", FILE.replace("4410", "4411"), FILE.replace("https", "http")]
    links += [FILE.replace("fbcdn.net", "fbsbx.com")]
    assert len({plain(link) for link in links}) == len(links)


@pytest.mark.parametrize(
    "link",
    [
        "https://example.org/a.jpg?oe=69105A00",
        "https://example.org/a b.jpg?x=%zz&y",
        "https://fbcdn.net.example.org/a.jpg?oh=1",
        "https://notfbcdn.net/a.jpg?oh=1",
        "https://l.facebook.com/l.php?u=https%3A%2F%2Fexample.org&h=AT0",
        "/reel/1234/",
        "My Documents/order.doc",
        "http://[",
        "http://[::1",
        "",
        "\x1a0000",
    ],
)
def test_what_facebook_did_not_sign_stays_as_it_is(link: str) -> None:
    links: Links = {}
    assert plain_link(link, links) == link
    assert links == {}


def test_the_signed_link_is_kept_beside_with_its_expiry() -> None:
    links: Links = {}
    signed = FILE + "?oh=03_A&oe=69105A00"
    assert plain_link(signed, links) == PLAIN
    assert links == {PLAIN: [1_762_679_296_000, signed, "2025-11-09T09:08:16+00:00"]}


@pytest.mark.parametrize("oe", ["", "0", "-1", "zz", "F" * 5_000])
def test_an_expiry_that_is_no_time_is_none(oe: str) -> None:
    links: Links = {}
    plain_link(f"{FILE}?oh=1&oe={oe}", links)
    ((expires, _, iso),) = links.values()
    assert (expires, iso) == (0, None)


def test_of_two_links_to_a_file_the_one_that_lives_longer_is_kept() -> None:
    early, late = FILE + "?oh=1&oe=69105A00", FILE + "?oh=1&oe=69205A00"
    for order in ((early, late), (late, early)):
        links: Links = {}
        for link in order:
            plain_link(link, links)
        assert [link for _, link, _ in links.values()] == [late]


def test_an_attachment_holds_nothing_that_is_absent() -> None:
    assert attachment("image", None, {}, title=None, name="", extra={}) == {"type": "image"}
    assert attachment("image", 7, {}) == {"type": "image"}


def test_links_inside_an_attachment_lose_their_signatures_too() -> None:
    links: Links = {}
    shape = attachment("template", None, links, extra={"elements": [{"image_url": FILE + "?oh=1&oe=69105A00", "n": 1}]})
    assert shape == {"type": "template", "extra": {"elements": [{"image_url": PLAIN, "n": 1}]}}
    assert list(links) == [PLAIN]


def test_of_two_that_carry_one_sticker_one_is_kept() -> None:
    one, two, image = {"type": "sticker", "sticker_id": "1"}, {"type": "sticker", "sticker_id": "2"}, {"type": "image"}
    assert without_sticker_twins([one, image, one, two, image]) == [one, image, two, image]


@pytest.mark.parametrize(
    ("mid", "canonical"),
    [
        ("m_Abc", "m_Abc"),
        ("Abc", "m_Abc"),
        ("mid.$cAAE", "m_mid.$cAAE"),
        ("mid.1457764197618:41d1", "m_mid.1457764197618:41d1"),
        ("M_Abc", "m_M_Abc"),
        ("m_", "m_"),
    ],
)
def test_a_mid_of_messenger_has_the_prefix_that_graph_gives_it(mid: str, canonical: str) -> None:
    assert canonical_mid(mid) == canonical
    assert canonical_mid(canonical) == canonical


def test_a_mid_of_instagram_stays_as_it_is() -> None:
    assert canonical_mid("aWdfZAG1", "instagram") == "aWdfZAG1"

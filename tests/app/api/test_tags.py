from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from app.api.tags import MOST_AT_ONCE
from tests.app.service import assert_problem, deliver, text_delivery

if TYPE_CHECKING:
    import httpx

    from tests.app.service import Service

PAGE = "1001"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def make(service: Service, name: str, **more: Any) -> dict[str, Any]:
    response = await service.http.post("/api/tags", json={"name": name, **more})
    assert response.status_code == 201, response.text
    return dict(response.json())


async def speak(service: Service, *psids: str) -> None:
    for psid in psids:
        assert (await deliver(service.http, text_delivery(PAGE, psid, f"m_{psid}", "hello", NOON))).status_code == 200


async def tags_of(service: Service, psid: str) -> list[str]:
    return list((await service.http.get(f"/api/conversations/{PAGE}/{psid}")).json()["tags"])


async def bulk(service: Service, *psids: str, **body: Any) -> httpx.Response:
    conversations = [{"page_id": PAGE, "psid": psid} for psid in psids]
    return await service.http.post("/api/conversations/tags", json={"conversations": conversations, **body})


async def test_a_tag_is_made_shown_listed_renamed_coloured_and_deleted(service: Service) -> None:
    made = await make(service, "größe & 50 %", colour="#Ff8800")
    assert made.keys() == {"id", "name", "colour", "created_at", "conversations"}
    assert (made["colour"], made["conversations"]) == ("#ff8800", 0)
    await make(service, "a")
    listed = (await service.http.get("/api/tags")).json()["data"]
    assert [tag["name"] for tag in listed] == ["a", "größe & 50 %"]
    address = "/api/tags/gr%C3%B6%C3%9Fe%20&%2050%20%25"
    assert (await service.http.get(address)).json() == made
    renamed = (await service.http.patch(address, json={"name": "size"})).json()
    assert renamed == {**made, "name": "size"}
    assert_problem(await service.http.get(address), 404, "tag")
    assert (await service.http.patch("/api/tags/size", json={"colour": None})).json()["colour"] is None
    assert (await service.http.patch("/api/tags/size", json={})).json() == {**renamed, "colour": None}
    assert (await service.http.delete("/api/tags/size")).status_code == 204
    assert [tag["name"] for tag in (await service.http.get("/api/tags")).json()["data"]] == ["a"]


async def test_a_new_tags_location_leads_to_it(service: Service) -> None:
    response = await service.http.post("/api/tags", json={"name": "a b"})
    assert (await service.http.get(response.headers["location"])).json() == response.json()


async def test_a_name_that_is_taken_is_a_409_problem(service: Service) -> None:
    await make(service, "a")
    await make(service, "b")
    assert_problem(await service.http.post("/api/tags", json={"name": "a"}), 409, "name")
    assert_problem(await service.http.patch("/api/tags/a", json={"name": "b"}), 409, "name")
    assert (await service.http.patch("/api/tags/a", json={"name": "a"})).status_code == 200


@pytest.mark.parametrize("name", ["", " a", "a ", "a,b", "a/b", ".", "..", "a\x00", "a\nb", "x" * 101, None, 7])
async def test_a_name_that_no_tag_can_have_is_a_422_problem(service: Service, name: object) -> None:
    assert_problem(await service.http.post("/api/tags", json={"name": name}), 422, "name")


async def test_names_that_differ_in_anything_are_names_of_two_tags(service: Service) -> None:
    names = ["VIP", "vip", "é", "e\u0301", "x" * 100, "👍" * 100, "a%2Fb", "#1?", "*", "null"]
    await speak(service, "p")
    for name in names:
        response = await service.http.post("/api/tags", json={"name": name})
        assert (await service.http.get(response.headers["location"])).json()["name"] == name
        path = response.headers["location"].removeprefix("/api")
        assert (await service.http.put(f"/api/conversations/{PAGE}/p{path}")).status_code == 204
    assert sorted(await tags_of(service, "p")) == sorted(names)
    listed = await service.http.get("/api/conversations", params={"include_tags": ",".join(names)})
    assert [row["psid"] for row in listed.json()["data"]] == ["p"]


@pytest.mark.parametrize("colour", ["", "red", "#fff", "#gggggg", "#ff88001", 7])
async def test_a_colour_that_is_none_is_a_422_problem(service: Service, colour: object) -> None:
    assert_problem(await service.http.post("/api/tags", json={"name": "a", "colour": colour}), 422, "colour")


async def test_what_is_done_to_a_tag_that_there_is_none_of_is_a_404_problem(service: Service) -> None:
    await speak(service, "p")
    on_one = f"/api/conversations/{PAGE}/p/tags/none"
    for method, path in (
        ("GET", "/api/tags/none"),
        ("PATCH", "/api/tags/none"),
        ("DELETE", "/api/tags/none"),
        ("PUT", on_one),
        ("DELETE", on_one),
    ):
        assert_problem(await service.http.request(method, path), 404, "tag")


async def test_a_tag_is_put_on_one_conversation_and_taken_off_however_often(service: Service) -> None:
    await speak(service, "p", "q")
    await make(service, "vip")
    path = f"/api/conversations/{PAGE}/p/tags/vip"
    for _ in range(2):
        response = await service.http.put(path)
        assert (response.status_code, response.content) == (204, b"")
        assert (await tags_of(service, "p"), await tags_of(service, "q")) == (["vip"], [])
    assert (await service.http.get("/api/tags/vip")).json()["conversations"] == 1
    for _ in range(2):
        assert (await service.http.delete(path)).status_code == 204
        assert await tags_of(service, "p") == []


async def test_a_tag_for_nobody_is_a_404_and_for_a_thread_it_leads_to_its_person(service: Service) -> None:
    await speak(service, "p")
    await make(service, "a b")
    assert_problem(await service.http.put(f"/api/conversations/{PAGE}/nobody/tags/a%20b"), 404, "psid")
    async with service.state["pool"].acquire() as connection:
        await connection.execute(
            "INSERT INTO conversation_threads (page_id, thread_id, psid, created_at) VALUES ($1, 't_1', 'p', now())",
            PAGE,
        )
    response = await service.http.put(f"/api/conversations/{PAGE}/t_1/tags/a%20b")
    assert response.status_code == 308
    assert (await service.http.put(response.headers["location"])).status_code == 204
    assert await tags_of(service, "p") == ["a b"]


async def test_many_conversations_are_tagged_at_once_and_those_that_there_are_none_of_are_told(
    service: Service,
) -> None:
    await speak(service, "p", "q")
    for name in ("old", "new"):
        await make(service, name)
    response = await bulk(service, "p", "q", "nobody", add=["old"])
    assert response.status_code == 200
    assert response.json() == {"added": 2, "removed": 0, "unknown": [{"page_id": PAGE, "psid": "nobody"}]}
    assert (await bulk(service, "p", "q", "q", add=["new"], remove=["old"])).json() == {
        "added": 2,
        "removed": 2,
        "unknown": [],
    }
    assert await tags_of(service, "q") == ["new"]


async def test_what_is_wrong_in_a_bulk_change_is_named_and_nothing_is_done(service: Service) -> None:
    await speak(service, "p")
    await make(service, "a")
    assert_problem(await bulk(service, "p"), 422, "add")
    assert_problem(await bulk(service, "p", add=["a"], remove=["a"]), 422, "remove")
    assert_problem(await bulk(service, add=["a"]), 422, "conversations")
    assert_problem(await bulk(service, "p", add=["a", "none"]), 404, "add")
    assert_problem(await bulk(service, "p", add=["a"], remove=["none"]), 404, "remove")
    assert_problem(await bulk(service, "p", add=["a,b"]), 422, "add.0")
    assert_problem(await bulk(service, *(["p"] * (MOST_AT_ONCE + 1)), add=["a"]), 422, "conversations")
    assert await tags_of(service, "p") == []


async def test_a_deleted_tag_is_off_every_conversation(service: Service) -> None:
    await speak(service, "p")
    await make(service, "a")
    await bulk(service, "p", add=["a"])
    await service.http.delete("/api/tags/a")
    await make(service, "a")
    assert await tags_of(service, "p") == []


async def test_conversations_are_listed_by_their_tags(service: Service) -> None:
    await speak(service, "p", "q", "r")
    for name in ("a", "b"):
        await make(service, name)
    await bulk(service, "p", "q", add=["a"])
    await bulk(service, "q", "r", add=["b"])

    async def listed(**params: Any) -> list[str]:
        page = (await service.http.get("/api/conversations", params={**params, "count": "exact"})).json()
        assert page["total"] == len(page["data"])
        return [row["psid"] for row in page["data"]]

    assert await listed(include_tags="a") == ["q", "p"]
    assert await listed(include_tags="a,b") == await listed(include_tags=["a", "b"], match="all") == ["q"]
    assert await listed(include_tags=" a , b ,a,", match="any") == ["r", "q", "p"]
    assert await listed(include_tags="a", exclude_tags="b") == ["p"]
    assert await listed(exclude_tags="b,none") == ["p"]
    assert await listed(include_tags="") == ["r", "q", "p"]
    assert_problem(await service.http.get("/api/conversations?include_tags=a/b"), 422, "include_tags.0")
    many = ",".join(map(str, range(21)))
    assert_problem(await service.http.get("/api/conversations", params={"exclude_tags": many}), 422, "exclude_tags")

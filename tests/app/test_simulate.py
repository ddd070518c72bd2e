"""`simulate`, as its users start it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from simulator import Behaviour, BehaviourError, parse_behaviour, serving
from sql.pool import connect
from tests.app.process import WITHIN_SECONDS, process
from tests.app.service import APP_SECRET, VERIFY_TOKEN, running, served, settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

SIMULATE = ("-m", "app.cli.main", "simulate", "--port", "0")


async def test_it_tells_where_it_is_and_each_token_it_gives_opens_its_page(tmp_path: Path) -> None:
    async with process(tmp_path, *SIMULATE, "--pages", "2", "--rate", "50", FACEBOOK_APP_SECRET=None) as simulated:
        url = (await simulated.said(r"Graph API: (\S+)"))[1]
        await simulated.said("until Ctrl-C")
        found = re.findall(r"Page (\d+) .*\n  token (\S+)", simulated.output)
        assert len(found) == 2
        async with httpx.AsyncClient(base_url=url) as http:
            for page_id, token in found:
                answer = await http.get("/v26.0/me", params={"access_token": token})
                assert answer.json()["id"] == page_id
                answer = await http.get(f"/v26.0/{page_id}/conversations", params={"access_token": token})
                assert answer.json()["data"]
            user = (await simulated.said(r"EAAUser\w+"))[0]
            answer = await http.get("/v26.0/me/accounts", params={"access_token": user})
            assert [(row["id"], row["access_token"]) for row in answer.json()["data"]] == found
            answer = await http.get("/simulator/truth", params={"page_id": found[0][0]})
            assert {next(iter(json.loads(line))) for line in answer.text.splitlines()} == {"conversation", "message"}
        simulated.signal(signal.SIGINT)
        assert await simulated.ended() == 0
    assert "5 calls of the Graph API" in simulated.output


async def test_its_webhooks_reach_the_service_and_its_losses_and_faults_are_told_at_the_end(
    tmp_path: Path, database: str
) -> None:
    async with running(settings_for(database)) as service, served(service.app, lifespan="off") as url:
        flags = ("--rate", "200", "--withhold", "0.2", "--repeat", "0.2", "--reorder", "0.2", "--batch", "3")
        graph_flags = ("--fault", "http_500#1x1", "--require-proof")
        secrets = {"FACEBOOK_APP_SECRET": f"{APP_SECRET},older", "FACEBOOK_VERIFY_TOKEN": VERIFY_TOKEN}
        arguments = (*SIMULATE, "--webhooks", f"{url}/webhook", *flags, *graph_flags)
        async with process(tmp_path, *arguments, **secrets) as simulated:
            await simulated.said("the challenge came back")
            graph_url = (await simulated.said(r"Graph API: (\S+)"))[1]
            token = (await simulated.said(r"  token (\S+)"))[1]
            async with httpx.AsyncClient(base_url=graph_url) as http:
                for code in (1, 100):  # the fault, then the missing proof
                    answer = await http.get("/v26.0/me", params={"access_token": token})
                    assert answer.json()["error"]["code"] == code
            connection = await connect(database)
            while await connection.fetchval("SELECT count(*) FROM messages") < 50:
                pass
            await connection.close()
            assert await simulated.stop() == 0
    assert "; http_500 1" in simulated.output
    assert re.search(r"\d+ webhook items: \d+ acknowledged, [1-9]\d* withheld, [1-9]\d* out of order", simulated.output)
    assert re.search(r"[1-9]\d* repeated, 0 failed", simulated.output)


async def test_a_burst_comes_as_one_delivery_of_a_thousand_entries(tmp_path: Path) -> None:
    sizes: list[int] = []
    burst = asyncio.Event()

    async def receive(request: Request) -> PlainTextResponse:
        sizes.append(len(json.loads(await request.body())["entry"]))
        if sizes[-1] == 1000:
            burst.set()
        return PlainTextResponse("EVENT_RECEIVED")

    async with serving(Starlette(routes=[Route("/hook", receive, methods=["POST"])])) as url:
        arguments = (*SIMULATE, "--webhooks", f"{url}/hook", "--app-secret", "s", "--burst-every", "0.5")
        async with process(tmp_path, *arguments, FACEBOOK_VERIFY_TOKEN=None) as simulated:
            async with asyncio.timeout(WITHIN_SECONDS):
                await burst.wait()
            assert await simulated.stop() == 0
    assert set(sizes) <= {1, 1000}


async def test_it_says_why_webhooks_fail_and_ends_at_once_while_nobody_answers_them(tmp_path: Path) -> None:
    answers = ["HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"] * 4  # then none at all
    left_alone = asyncio.Event()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"}]}]}"):
                if not answers:
                    left_alone.set()
                    continue
                writer.write(answers.pop().encode())
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        arguments = (*SIMULATE, "--webhooks", url, "--app-secret", "s", "--rate", "200")
        async with process(tmp_path, *arguments, FACEBOOK_VERIFY_TOKEN=None) as simulated:
            await simulated.said("webhooks fail: HTTP 503; they are tried again")
            await left_alone.wait()
            assert await simulated.stop() == 0
    assert simulated.output.count("webhooks fail: HTTP 503") == 1
    assert re.search(r"[1-9]\d* failed, \d+ still waiting; .*HTTP 503 [1-4]", simulated.output)


async def test_a_page_is_allowed_two_hundred_calls_a_day_for_each_of_its_people(tmp_path: Path) -> None:
    async with process(tmp_path, *SIMULATE, "--conversations", "2", "--rate", "0") as simulated:
        url = (await simulated.said(r"Graph API: (\S+)"))[1]
        token = (await simulated.said(r"  token (\S+)"))[1]
        async with httpx.AsyncClient(base_url=url) as http:
            answers = [await http.get("/v26.0/me", params={"access_token": token}) for _ in range(401)]
    assert [answer.status_code for answer in answers] == [200] * 400 + [400]
    assert answers[-1].json()["error"]["code"] == 80006
    (usage,) = json.loads(answers[199].headers["x-business-use-case-usage"]).values()
    assert (usage[0]["type"], usage[0]["call_count"]) == ("messenger", 50)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--fault", "earthquake:0.1"), "no fault named earthquake; known are: latency, timeout, http_500"),
        (("--fault", "http_500:1.5"), "the probability must be from 0 to 1"),
        (("--fault", "http_500:many"), "not a fault: http_500:many; it is NAME"),
        (("--behave", "since=always"), "since must be one of ignored, honoured, refused, lying, not always"),
        (
            ("--behave", "telepathy=true"),
            "not a switch: telepathy=true; it is NAME=VALUE, with one of since, updated_time",
        ),
        (("--behave", "short_pages=2"), "short_pages must be from 0 to 1, not 2"),
        (("--withhold", "1.1"), "less than or equal to 1"),
        (("--pages", "0"), "greater than or equal to 1"),
        (("--rate", "-1"), "greater than or equal to 0"),
        (("--batch", "1001"), "less than or equal to 1000"),
        (("--webhooks", "http://127.0.0.1:1/webhook"), "need --app-secret"),
        (("--webhooks", "nonsense", "--app-secret", "s"), "such as http://127.0.0.1:8000/webhook, not nonsense"),
        (("--webhooks", "http://[::1", "--app-secret", "s"), "such as http://127.0.0.1:8000/webhook, not http://[::1"),
        (("--withhold", "0.1"), "--withhold, --repeat, --reorder, --batch and --burst-every need --webhooks"),
        (("--rate", "nan"), "less than or equal to 1000"),
        (("--calls-per-second", "inf"), "less than or equal to"),
        (("--burst-every", "0"), "greater than or equal to 0.1"),
        (("--daily-calls", "-1"), "greater than or equal to 0"),
        (("--fault", "html@3"), "html has no value; only latency, token_dead, throttled have one"),
        (("--behave", "read_lag_seconds=inf"), "read_lag_seconds must be a number of at least 0, not inf"),
        (("--behave", "cursor_seconds=nan"), "cursor_seconds must be a number of at least 0, not nan"),
    ],
)
async def test_a_flag_that_cannot_be_is_told_and_nothing_starts(
    tmp_path: Path, flags: tuple[str, ...], reason: str
) -> None:
    wide = {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}
    async with process(tmp_path, *SIMULATE, *flags, FACEBOOK_APP_SECRET=None, **wide) as simulated:
        assert await simulated.ended() == 2
    assert reason in " ".join(simulated.output.split())
    assert "Traceback" not in simulated.output


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    async with process(tmp_path, *SIMULATE) as one:
        port = (await one.said(r"Graph API: \S+:(\d+)"))[1]
        async with process(tmp_path, *SIMULATE[:-1], port) as other:
            assert await other.ended() == 1
        assert f"can't listen on 127.0.0.1:{port}" in other.output


def test_switches_are_read_from_their_texts() -> None:
    texts = ["since=honoured", "twenty_newest=true", "cursor_seconds=2.5", "max_rows=none", "max_limit=50"]
    expected = Behaviour(since="honoured", twenty_newest=True, cursor_seconds=2.5, max_rows=None, max_limit=50)
    assert parse_behaviour(texts) == expected
    for wrong in ("max_limit=0", "max_limit=1.5", "twenty_newest=yes", "since", "read_lag_seconds=-1"):
        with pytest.raises(BehaviourError):
            parse_behaviour([wrong])

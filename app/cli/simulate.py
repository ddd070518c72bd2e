"""`simulate`: the simulated Facebook alone, for whoever writes against Messenger."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import httpx
import typer

from app.cli.session import console
from simulator import (
    BehaviourError,
    FaultError,
    Faults,
    Graph,
    Life,
    Limits,
    Sender,
    World,
    parse_behaviour,
    serving,
)
from simulator.behaviour import SWITCHES
from simulator.faults import KNOWN
from simulator.sender import MAX_BATCH, is_web_address
from simulator.telling import PATH, graph_and_truth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from simulator import Behaviour, Item

TURN_SECONDS = 0.1
POSTS_AT_ONCE = 8
PER_PAGE = 2.0  # Meta's limit on its Conversations API, calls a second
PER_PERSON = 200  # Meta's limit for Messenger, calls in 24 hours
END_WITHIN_SECONDS = 1.0  # for deliveries that are under way


class SimulateError(Exception):
    """It can't start; the text says why."""


class Plan(NamedTuple):
    """What the flags say."""

    graph: Graph
    host: str
    port: int
    rate: float
    webhooks: str | None
    app_secret: str | None
    verify_token: str | None
    withhold: float
    repeat: float
    reorder: float
    batch: int
    burst_every: float | None
    seed: int


def simulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the Graph API; 0: any that is free")] = 8100,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    seed: Annotated[int, typer.Option(min=0, help="another one, another world")] = 1,
    pages: Annotated[int, typer.Option(min=1, max=10_000, help="how many")] = 5,
    conversations: Annotated[int, typer.Option(min=1, max=10**6, help="of each Page, before it begins")] = 40,
    messages: Annotated[int, typer.Option(min=1, max=10**5, help="of each conversation, on average, likewise")] = 15,
    rate: Annotated[float, typer.Option(min=0, max=1000, help="things that happen a second, on all Pages")] = 1.0,
    webhooks: Annotated[
        str | None, typer.Option(help="where to post them, such as http://127.0.0.1:8000/webhook")
    ] = None,
    app_secret: Annotated[
        str | None, typer.Option(envvar="FACEBOOK_APP_SECRET", help="signs webhooks; an appsecret_proof must fit it")
    ] = None,
    verify_token: Annotated[
        str | None, typer.Option(envvar="FACEBOOK_VERIFY_TOKEN", help="shake hands first, with this word")
    ] = None,
    withhold: Annotated[float, typer.Option(min=0, max=1, help="share of webhook items that are lost")] = 0.0,
    repeat: Annotated[float, typer.Option(min=0, max=1, help="share of deliveries that come twice")] = 0.0,
    reorder: Annotated[float, typer.Option(min=0, max=1, help="share of items that come late, out of order")] = 0.0,
    batch: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="most items of one delivery")] = 1,
    burst_every: Annotated[
        float | None,
        typer.Option(min=0.1, max=1e6, help=f"seconds; then {MAX_BATCH} things happen at once"),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PROBABILITY][@VALUE][#FIRST[xTIMES]]",
            help=f"what goes wrong in Graph; repeat it; of {', '.join(KNOWN)}",
        ),
    ] = None,
    behave: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help=f"what Graph does where nobody could confirm it; repeat it; of {', '.join(SWITCHES)}",
        ),
    ] = None,
    calls_per_second: Annotated[
        float, typer.Option(min=0, max=1e6, help="that each Page is allowed; 0: any number")
    ] = PER_PAGE,
    daily_calls: Annotated[
        int | None,
        typer.Option(
            min=0, help=f"that each Page is allowed in 24 hours; 0: any number; without: {PER_PERSON} a person, as Meta"
        ),
    ] = None,
    require_proof: Annotated[  # noqa: FBT002 - typer makes a flag of it
        bool, typer.Option("--require-proof", help="refuse calls without appsecret_proof, as an app's setting does")
    ] = False,
) -> None:
    """Run a simulated Facebook: a Graph API over a generated world, and a sender of its webhooks. Until Ctrl-C."""
    secret = app_secret.split(",")[0].strip() if app_secret else None
    if not secret and (webhooks is not None or require_proof):
        raise typer.BadParameter("--webhooks and --require-proof need --app-secret: nothing can be signed without it")
    if webhooks is None and (withhold or repeat or reorder or batch > 1 or burst_every):
        raise typer.BadParameter("--withhold, --repeat, --reorder, --batch and --burst-every need --webhooks")
    try:
        behaviour: Behaviour = parse_behaviour(behave or ())
        faults = Faults(fault or (), seed)
    except (BehaviourError, FaultError) as error:
        raise typer.BadParameter(str(error)) from None
    if webhooks is not None and not is_web_address(webhooks):
        raise typer.BadParameter(f"--webhooks is an address such as http://127.0.0.1:8000/webhook, not {webhooks}")
    limits = Limits(
        calls_per_second=calls_per_second or None,
        daily_calls=daily_calls or None,
        daily_calls_per_person=PER_PERSON if daily_calls is None else None,
    )
    world = World(seed, pages=pages, conversations_per_page=conversations, messages_per_conversation=messages)
    graph = Graph(
        world, app_secret=secret, requires_proof=require_proof, behaviour=behaviour, faults=faults, limits=limits
    )
    plan = Plan(
        graph,
        host,
        port,
        rate,
        webhooks,
        secret,
        verify_token,
        withhold,
        repeat,
        reorder,
        batch=batch,
        burst_every=burst_every,
        seed=seed,
    )
    asyncio.run(_run(plan))


async def _run(plan: Plan) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with (
            serving(graph_and_truth(plan.graph), host=plan.host, port=plan.port) as url,
            _sender(plan, stop) as sender,
        ):
            _introduce(plan, url)
            await _live(plan, sender, stop)
    except OSError as error:
        raise SimulateError(f"can't listen on {plan.host}:{plan.port}: {error.strerror}") from None
    _conclude(plan, sender)


@asynccontextmanager
async def _sender(plan: Plan, stop: asyncio.Event) -> AsyncIterator[Sender | None]:
    """Make the sender, and let it try again what was refused."""
    if plan.webhooks is None or plan.app_secret is None:
        yield None
        return
    async with httpx.AsyncClient() as http:
        sender = Sender(
            http,
            plan.webhooks,
            plan.app_secret,
            world=plan.graph.world,
            seed=plan.seed,
            batch=plan.batch,
            withhold=plan.withhold,
            repeat=plan.repeat,
            reorder=plan.reorder,
            concurrency=POSTS_AT_ONCE,
        )
        if plan.verify_token is not None:
            await _shake_hands(sender, plan.verify_token, plan.webhooks)
        retrying = asyncio.create_task(sender.run(stop))
        try:
            yield sender
        finally:
            retrying.cancel()
            await asyncio.wait([retrying])


async def _shake_hands(sender: Sender, verify_token: str, url: str) -> None:
    try:
        shaken = await sender.handshake(verify_token.split(",", maxsplit=1)[0].strip())
    except httpx.HTTPError as error:
        console.print(f"{url} does not answer yet: {type(error).__name__}")
    else:
        console.print("handshake: " + ("the challenge came back" if shaken else "refused"))


async def _live(plan: Plan, sender: Sender | None, stop: asyncio.Event) -> None:
    """Let things happen at the rate asked for, whether or not their webhooks find an end."""
    life = Life(plan.graph.world, seed=plan.seed)
    began, happened, bursts = time.monotonic(), 0, 0
    news = _News(sender)
    posts: set[asyncio.Task[None]] = set()

    def post(sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(sending)
        posts.add(task)
        task.add_done_callback(posts.discard)

    while not stop.is_set():
        passed = time.monotonic() - began
        due = int(passed * plan.rate) - happened
        items: list[Item] = [item for _ in range(due) for item in life.happen()]
        happened += due
        if sender is not None and items:
            post(sender.send(items))
        if sender is not None and plan.burst_every is not None and passed >= (bursts + 1) * plan.burst_every:
            post(sender.burst([item for _ in range(MAX_BATCH) for item in life.happen()]))
            bursts = int(passed / plan.burst_every)
        news.tell()
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await stop.wait()
        except TimeoutError:
            continue
    await _end(posts)


async def _end(posts: set[asyncio.Task[None]]) -> None:
    """Let deliveries end that can, and give up those to somebody who does not answer."""
    if not posts:
        return
    _, waiting = await asyncio.wait(set(posts), timeout=END_WITHIN_SECONDS)
    for post in waiting:
        post.cancel()
    if waiting:
        await asyncio.wait(waiting)


class _News:
    """What a user should know at once: why deliveries fail, each reason once, and what Meta would tell."""

    def __init__(self, sender: Sender | None) -> None:
        self._sender = sender
        self._failures: set[str] = set()
        self._alerts = 0

    def tell(self) -> None:
        """Say what is new."""
        if self._sender is None:
            return
        for failure in self._sender.failures.keys() - self._failures:
            console.print(f"webhooks fail: {failure}; they are tried again")
            self._failures.add(failure)
        for alert in self._sender.alerts[self._alerts :]:
            console.print(f"alert: webhooks of Page {alert.page_id} are {alert.kind}")
            self._alerts += 1


def _introduce(plan: Plan, url: str) -> None:
    """Say where it is, who the Pages are, and what to try."""
    page = plan.graph.world.pages[0]
    say = console.out
    say(f"Graph API: {url}\n")
    for one in plan.graph.world.pages:
        say(f"Page {one.id}  {one.name}\n  token {one.access_token}")
    say(f"User, of all these Pages\n  token {plan.graph.world.user_token}")
    say(f"App {plan.graph.app_id}")
    say("\nTry:\n")
    call, token = f"curl -sG '{url}/v26.0/", f"-d access_token={page.access_token}"
    if plan.graph.requires_proof:
        proof = f'printf %s {page.access_token} | openssl dgst -sha256 -hmac "$FACEBOOK_APP_SECRET" -r | cut -c1-64'
        token += f' -d appsecret_proof="$({proof})"'
    say(f"{call}me' {token}")
    fields = "participants,updated_time,messages.limit(3){message,from,created_time}"
    say(f"{call}{page.id}/conversations' {token} -d 'fields={fields}'")
    say(f"curl -sG '{url}{PATH}' -d page_id={page.id}    # what is true now, to compare with")
    say(f"\nPoint messenger-mirror at it: GRAPH_API_URL={url}; then `pages add` with a token.")
    say("It goes on until Ctrl-C.")


def _conclude(plan: Plan, sender: Sender | None) -> None:
    console.out(f"\n{plan.graph.answered} calls of the Graph API" + _went_wrong(plan.graph.faults.happened))
    if sender is not None:
        c = sender.counts
        console.out(
            f"{c.items} webhook items: {c.acknowledged} acknowledged, {c.withheld} withheld, "
            f"{c.reordered} out of order, {c.unsubscribed} not subscribed to; {c.posted} posts, "
            f"{c.repeated} repeated, {c.failed} failed, {sender.pending} still waiting" + _went_wrong(sender.failures)
        )


def _went_wrong(happened: Mapping[str, int]) -> str:
    return "; " + ", ".join(f"{name} {count}" for name, count in sorted(happened.items())) if happened else ""

"""What the demo shows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    from app.demo.comparison import Difference
    from app.demo.service import Service
    from simulator.sender import Counts
    from simulator.world import World

SHOWN_DIFFERENCES = 10


def arrivals_table(rows: Sequence[asyncpg.Record], names: Mapping[str, str]) -> Table:
    """Per Page: messages by webhook, repaired by sync, and how late each came (seconds, median and worst)."""
    table = Table("Page", title="live messages")
    for column in ("by webhook", "repaired", "webhook late: p50", "max", "repair late: p50", "max"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            names.get(row["page_id"], row["page_id"]),
            str(row["by_webhook"]),
            str(row["by_sync"]),
            *_seconds(row["webhook_seconds"]),
            *_seconds(row["sync_seconds"]),
        )
    return table


def _seconds(values: Sequence[float] | None) -> tuple[str, str]:
    return (f"{values[0]:.3f} s", f"{values[1]:.3f} s") if values else ("", "")


def summary(world: World, counts: Counts, differences: Sequence[Difference]) -> str:
    """Say what was sent and what the comparison found."""
    total = sum(1 for page in world.pages for _ in world.true_messages(page.id))
    items = f"{counts.items} happened, {counts.withheld} withheld, {counts.reordered} out of order"
    lines = [
        f"webhook items: {items}; {counts.repeated} deliveries repeated, {counts.failed} posts refused",
        f"{total} messages of Facebook compared with the mirror, field by field:",
    ]
    found = Counter(difference.kind for difference in differences)
    lines.append(f"missing {found['missing']}, wrong {found['wrong']}, unknown {found['unknown']}")
    lines += [f"  {d.kind}: {d.key} of Page {d.page_id}: {d.what}" for d in differences[:SHOWN_DIFFERENCES]]
    return "\n".join(lines)


def curl_lines(served: Service, world: World) -> str:
    """Give lines to try."""
    page = world.pages[0]
    person = next(iter(world.true_conversations(page.id))).psid
    auth = f"-H 'Authorization: Bearer {served.api_key}'"
    paths = (
        "/api/pages",
        f"/api/conversations?page_id={page.id}&limit=5",
        f"/api/conversations/{page.id}/{person}/messages?limit=5",
        "/api/loss",
        "/api/runs?limit=5",
    )
    lines = [f"curl -s {auth} '{served.url}{path}'" for path in paths]
    lines.append(f"curl -s {auth} -X POST '{served.url}/api/conversations/sync-all' -d '{{\"wait_seconds\": 30}}'")
    lines.append(f"curl -s '{served.url}/metrics'")
    return "\nIt goes on until Ctrl-C, with a little traffic. Try:\n\n" + "\n".join(lines) + "\n"

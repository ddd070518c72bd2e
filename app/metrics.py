"""What this process counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_LATE = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

DELIVERIES = Counter("mirror_deliveries", "POSTs to /webhook by outcome", ["outcome"])
ITEMS = Counter("mirror_items", "Items of deliveries by kind", ["kind"])
UNKNOWN_ITEMS = Counter("mirror_unknown_items", "Items that hold a key this version does not know", ["key"])
DEAD_LETTERS = Counter("mirror_dead_letters", "Items that could not be turned into rows")
ACK_SECONDS = Histogram("mirror_ack_seconds", "From a delivery's first byte to its 200", buckets=_FAST)
GROUP_SIZE = Histogram("mirror_group_size", "Deliveries per transaction", buckets=_SIZES)
COMMIT_SECONDS = Histogram("mirror_commit_seconds", "Time of one group's transaction", buckets=_FAST)
GROUPS_FAILED = Counter("mirror_groups_failed", "Groups that Postgres did not commit")
QUEUE_BYTES = Gauge("mirror_queue_bytes", "Bytes of bodies that wait for a transaction", multiprocess_mode="livesum")
SPOOLED = Counter("mirror_spooled", "Deliveries that the spool took because Postgres did not")
DRAINED = Counter("mirror_drained", "Deliveries that came out of the spool into Postgres")
SPOOL_DELIVERIES = Gauge("mirror_spool_deliveries", "Deliveries in the spool", multiprocess_mode="livesum")
SPOOL_BYTES = Gauge("mirror_spool_bytes", "Bytes of their bodies", multiprocess_mode="livesum")
SPOOL_AGE_SECONDS = Gauge("mirror_spool_age_seconds", "Age of the oldest of them", multiprocess_mode="livemax")
LATENESS_SECONDS = Histogram(
    "mirror_lateness_seconds", "From a message's sending, by Facebook's clock, to its commit by webhook", buckets=_LATE
)
REPAIRED = Counter("mirror_repaired", "Messages that webhooks missed and a sync brought, once that is decided")
RUNS = Counter("mirror_sync_runs", "Sync runs that ended, by kind and state", ["kind", "state"])
SUBSCRIPTIONS_REPAIRED = Counter("mirror_subscriptions_repaired", "Pages whose webhook fields had been dropped")
GRAPH_CALLS = Counter("mirror_graph_calls", "Calls of the Graph API by outcome", ["outcome"])

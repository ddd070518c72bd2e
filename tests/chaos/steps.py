"""What a play is made of: strategies of its steps, and of how its Graph behaves."""

from __future__ import annotations

from typing import Any, TypeAlias

from hypothesis import strategies as st

Step: TypeAlias = "tuple[Any, ...]"

DOORS = 2
READ_LAG_SECONDS = 20
# each of these costs a call, at most
FAULTS = ("http_500", "transient", "html", "cut_body", "empty_body", "timeout", "stale_cursor", "too_heavy", "bump")
# these end a run in the midst of it, as the others do when they come again and again
ENDS = ("token_dead", "no_permission", "throttled", "not_found", "http_500")
AGAIN_AND_AGAIN = 8  # more often than a call is tried
NUMBER = st.integers(0, 40)
HAPPENINGS = (
    *("person", "person", "page", "page", "attach", "present", "quick", "advert", "reply", "postback", "unsupported"),
    *("edit", "edit", "unsend", "unsend", "react", "react", "unreact", "read", "receipt", "pass", "refer", "event"),
)
ABOUT_A_MESSAGE = (*HAPPENINGS[HAPPENINGS.index("edit") :], "reply")
DURING = st.lists(st.tuples(st.integers(1, 8), st.deferred(lambda: LIVE)), max_size=2)
HAPPENING: st.SearchStrategy[Step] = st.tuples(st.just("happen"), st.sampled_from(HAPPENINGS), NUMBER)
LIVE: st.SearchStrategy[Step] = st.one_of(
    HAPPENING,
    st.tuples(st.just("arrive"), NUMBER, st.integers(1, 4)),
    st.tuples(st.just("lose"), NUMBER),
    st.tuples(st.just("repeat"), NUMBER),
)
SYNCS = {"sync", "kill", "fall", "rush"}
KIND = st.sampled_from(("incremental", "incremental", "full", "audit", "backfill", "night"))
DOOR = st.integers(0, DOORS - 1)
WHEN = st.sampled_from(("before the commit", "after the commit"))
BURST: st.SearchStrategy[Step] = st.tuples(st.just("burst"), st.lists(HAPPENING, min_size=2, max_size=8))
TROUBLE: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("trouble"), st.sampled_from(FAULTS), st.integers(1, 6), st.just(1)),
    st.tuples(st.just("trouble"), st.sampled_from(ENDS), st.integers(1, 6), st.just(AGAIN_AND_AGAIN)),
    # of one conversation, whoever asks for it alone
    st.tuples(st.just("ill"), NUMBER, st.sampled_from(("not_found", "http_500")), st.integers(1, 12)),
)
SYNC: st.SearchStrategy[Step] = st.tuples(st.just("sync"), KIND, DURING)
FALL: st.SearchStrategy[Step] = st.tuples(st.just("fall"), KIND, st.integers(1, 9))
# so short that no later run makes good what one did wrong
SHORT: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(BURST, st.just(("wait", 700)), SYNC, FALL, TROUBLE, TROUBLE), min_size=2, max_size=8
)
LONG: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        *(LIVE, LIVE, BURST, BURST),
        st.tuples(st.just("wait"), st.sampled_from((0.4, 1, 30, 700))),
        SYNC,
        st.tuples(st.just("kill"), KIND, st.integers(1, 9), DURING),
        *(FALL, TROUBLE),
        st.tuples(st.just("rush"), st.integers(1, 12), KIND),
        st.tuples(st.just("away"), DOOR),
        st.tuples(st.just("doubt"), DOOR),
        st.tuples(st.just("crash"), DOOR, WHEN, st.integers(1, 6), st.booleans()),
        st.tuples(st.just("drain")),
    ),
    min_size=20,
    max_size=100,
)
STEPS: st.SearchStrategy[list[Step]] = st.one_of(SHORT, LONG)


# A Graph that grants nothing: whole seconds, links that differ at each read, data that lags, mostly an ignored `since`.
# One that is honoured or refused is trusted from the start. One that lies costs messages once it is trusted, until an
# audit sees them (tests/reconciler/test_since.py), so here it has to be proven first: answers this short prove nothing.
BEHAVIOURS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"read_lag_seconds": st.just(READ_LAG_SECONDS), "max_limit": st.just(7), "counts_are_estimates": st.just(True)},
    optional={
        "since": st.sampled_from(("honoured", "refused", "lying")),
        "updated_time": st.just("changes"),
        "order": st.sampled_from(("shuffled_pages", "shuffled")),
        "cursors": st.just("offset"),
        "short_pages": st.just(0.3),
        "has_reply_to": st.just(True),
    },
)

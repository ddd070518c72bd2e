from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.graph.usage import LONGEST_WAIT, SLOWEST, Usage, http_date, usage_of, wait_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def business(*entries: object) -> dict[str, str]:
    return {"x-business-use-case-usage": json.dumps({"10": list(entries)})}


def test_all_three_headers_are_read() -> None:
    headers = {
        "x-app-usage": '{"call_count":28,"total_time":25,"total_cputime":31}',
        "x-page-usage": '{"call_count":20,"total_time":40,"total_cputime":60}',
        **business({"type": "messenger", "call_count": 97, "total_time": 23, "estimated_time_to_regain_access": 4}),
    }
    assert usage_of(headers) == Usage(app=31, page=97, regain=timedelta(minutes=4))


def test_the_fullest_of_several_businesses_counts() -> None:
    header = json.dumps({"1": [{"type": "pages", "call_count": 40}], "2": [{"type": "messenger", "total_time": 81}]})
    assert usage_of({"x-business-use-case-usage": header}).page == 81


def test_the_limits_of_other_products_are_not_ours() -> None:
    ads = {"type": "ads_management", "call_count": 100, "estimated_time_to_regain_access": 30}
    assert usage_of(business(ads, {"type": "messenger", "call_count": 5})) == Usage(page=5)


def test_without_headers_nothing_is_used() -> None:
    assert usage_of({}) == Usage(0, 0, None)


@pytest.mark.parametrize(
    "header",
    ["", "{", "[]", "null", '{"1":2}', '{"1":[2]}', '{"1":[{"call_count":"many"}]}', '{"1":[{"type":7}]}', "ÿ"],
)
def test_a_header_that_cannot_be_read_is_as_if_it_were_not_there(header: str) -> None:
    headers = dict.fromkeys(("x-app-usage", "x-page-usage", "x-business-use-case-usage"), header)
    assert usage_of(headers) == Usage(0, 0, None)


def test_calls_are_spread_only_near_the_limit() -> None:
    assert Usage(page=74).delay == 0
    assert 0 < Usage(page=80).delay < Usage(app=95).delay < SLOWEST.total_seconds()
    assert Usage(page=100).delay == Usage(page=340).delay == SLOWEST.total_seconds()


def test_the_wait_is_the_longer_of_what_the_headers_ask() -> None:
    headers = business({"type": "messenger", "call_count": 100, "estimated_time_to_regain_access": 7})
    assert wait_of(headers, NOW) == timedelta(minutes=7)
    assert wait_of({**headers, "retry-after": "30"}, NOW) == timedelta(minutes=7)
    assert wait_of({**headers, "retry-after": "3600"}, NOW) == timedelta(hours=1)
    assert wait_of({"retry-after": "Sun, 01 Mar 2026 12:00:40 GMT"}, NOW) == timedelta(seconds=40)
    assert wait_of({}, NOW) is None


@pytest.mark.parametrize("header", ["soon", "-5", "1.5", "Sun, 99 Mar 2026"])
def test_a_retry_after_that_cannot_be_read_asks_for_nothing(header: str) -> None:
    assert wait_of({"retry-after": header}, NOW) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "9" * 30},
        {"retry-after": "9" * 5000},
        {"retry-after": "Sun, 01 Mar 2099 12:00:00 GMT"},
        business({"type": "messenger", "estimated_time_to_regain_access": 1e12}),
    ],
)
def test_no_header_makes_us_wait_longer_than_a_day(headers: dict[str, str]) -> None:
    assert wait_of(headers, NOW) == LONGEST_WAIT


def test_a_date_in_the_past_is_no_wait() -> None:
    assert wait_of({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, NOW) == timedelta(0)


def test_a_date_without_zone_is_utc() -> None:
    assert http_date("Sun, 01 Mar 2026 12:00:00 -0000") == NOW
    assert http_date("Sun, 01 Mar 2026 14:00:00 +0200") == NOW


@pytest.mark.parametrize("header", [None, "", "yesterday", "Sun, 01 Mar 2026 99:00:00 GMT"])
def test_a_date_that_cannot_be_read_is_none(header: str | None) -> None:
    assert http_date(header) is None

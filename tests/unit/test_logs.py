"""Log lines: an event, then its fields, whatever a peer put into them."""

import logging

import pytest

from fedcore.logs import EventFormatter


def line(event: str, **fields: object) -> str:
    record = logging.makeLogRecord(
        {"name": "a.b", "levelname": "INFO", "msg": event, "created": 0.5, "msecs": 500.0, **fields}
    )
    return EventFormatter().format(record)


def test_a_line_is_time_level_source_event_fields() -> None:
    assert line("joined", client="client-0", round=3) == (
        "1970-01-01T00:00:00.500Z INFO a.b joined client=client-0 round=3"
    )


@pytest.mark.parametrize("hostile", ["two\nlines", "a b", "\x1b[31mred", ""])
def test_a_field_stays_one_readable_word_or_one_quoted_string(hostile: str) -> None:
    shown = line("event", why=hostile)
    assert shown.isprintable()
    assert "\n" not in shown
    assert shown.endswith('"')

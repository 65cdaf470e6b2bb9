"""What a cluster says of a service that ended."""

from __future__ import annotations

from pathlib import Path

from testbed.cluster import Service


def test_the_last_words_are_those_of_the_last_start(tmp_path: Path) -> None:
    log = tmp_path / "client-0.log"
    log.write_text("words of an earlier run\n")
    service = Service(name="client-0", command=["no_such_module"], log=log)
    for _ in range(2):
        service.start()
        assert service.process is not None
        assert service.process.wait(30) == 1
        words = service.last_words()
        assert words.count("No module named no_such_module") == 1
        assert "earlier" not in words
    assert log.read_text().startswith("words of an earlier run\n")

"""An upload whose sender goes away leaves neither file nor thread behind."""

import asyncio
import hashlib
import threading

import pytest

from aggregator.journal import BlobFolder, IncomingBlob
from aggregator.uploads import IncomingUpload
from fedcore.types import Ticket
from fedcore.wire.blobs import chunks
from fedcore.wire.messages import UploadHeader

BLOB = bytes(range(256)) * (1 << 13)  # 2 MiB: threads write it


@pytest.mark.parametrize("stage", ["write", "settle"])
def test_a_cancelled_upload_waits_for_its_thread_and_drops_its_file(tmp_path, monkeypatch, stage):
    at_work, go_on = threading.Event(), threading.Event()
    real = getattr(IncomingBlob, stage)
    closed_under_work = []

    def slow(self, *arguments):
        at_work.set()
        assert go_on.wait(10)
        closed_under_work.append(self._file is None and stage == "settle")
        return real(self, *arguments)

    monkeypatch.setattr(IncomingBlob, stage, slow)
    journal = BlobFolder(tmp_path / "journal")
    header = UploadHeader(
        ticket=Ticket(run_id="run", round=0, client_id="client-0"),
        attempt=0,
        plan_digest="0" * 64,
        n_bytes=len(BLOB),
        sha256=hashlib.sha256(BLOB).hexdigest(),
    )

    async def receive():
        upload = IncomingUpload(header, journal=journal)
        try:
            for chunk in chunks(BLOB):
                upload.add(chunk)
            await upload.finish(len)
        finally:
            await upload.close()

    async def story():
        receiving = asyncio.create_task(receive())
        await asyncio.to_thread(at_work.wait, 10)
        receiving.cancel()
        await asyncio.sleep(0.05)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await receiving

    asyncio.run(story())
    assert closed_under_work
    assert not any(closed_under_work)
    assert list(journal.root.iterdir()) == []

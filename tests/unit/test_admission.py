"""What admission calls an update that comes when its round is not open."""

import pytest

from aggregator.admission import Admission
from aggregator.store import Store
from fedcore.config import parse_experiment
from fedcore.errors import Refusal, UpdateError
from fedcore.types import Ticket
from fedcore.wire.messages import UploadHeader

EXPERIMENT = parse_experiment({"name": "tiny", "n_clients": 2}, where="test")
RUN_ID = EXPERIMENT.run_id(EXPERIMENT.arms[0])


@pytest.mark.parametrize(
    ("n_opened", "reason"),
    [
        (0, Refusal.STALE_ROUND),  # never opened
        (1, Refusal.LATE),  # being folded
        (2, Refusal.LATE),  # the next one is open or being folded
        (3, Refusal.STALE_ROUND),
    ],
)
def test_only_the_round_that_closed_a_moment_ago_is_late(tmp_path, n_opened, reason):
    store = Store(tmp_path / "store.sqlite")
    for number in range(n_opened):
        store.open_round(RUN_ID, round=number, plan=b"{}", plan_digest="0" * 64, weights="0" * 64)
    header = UploadHeader(
        ticket=Ticket(run_id=RUN_ID, round=0, client_id="client-0"),
        attempt=0,
        plan_digest="0" * 64,
        n_bytes=1,
        sha256="1" * 64,
    )
    with pytest.raises(UpdateError) as refused:
        Admission(EXPERIMENT, store).check_header(header, None)
    store.close()
    assert refused.value.refusal is reason

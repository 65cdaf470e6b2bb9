"""An evaluation that cannot be is refused by name: a client's accuracy lies in [0, 1]."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.energy import DIVERGED, Evaluation, PhaseReport
from fedcore.errors import Refusal, UpdateError
from fedcore.types import Ticket
from fedcore.wire.messages import report_from_proto, report_to_proto
from protos.v1 import rounds_pb2


def message(*, n_correct: int, n_examples: int, mean_loss: float = 0.5) -> rounds_pb2.PhaseReport:
    report = PhaseReport(
        ticket=Ticket(run_id="run", round=1, client_id="client-0"),
        attempt=0,
        phases=(),
        evaluation=None,
        clock_offset_s=0.0,
        clock_uncertainty_s=0.0,
        machine_card="",
    )
    sent = report_to_proto(report)
    sent.evaluation.n_correct = n_correct
    sent.evaluation.n_examples = n_examples
    sent.evaluation.mean_loss = mean_loss
    return sent


@given(st.data())
def test_what_can_be_comes_back(data: st.DataObject) -> None:
    n_examples = data.draw(st.integers(1, 100_000))
    n_correct = data.draw(st.integers(0, n_examples))
    found = report_from_proto(message(n_correct=n_correct, n_examples=n_examples)).evaluation
    assert found == Evaluation(n_correct=n_correct, n_examples=n_examples, mean_loss=0.5)


@pytest.mark.parametrize(
    ("n_correct", "n_examples"),
    [(0, 0), (1, 0), (5, 4), (2**64 - 1, 1), (0, 2**64 - 1)],
    ids=["nothing-seen", "right-without-examples", "more-than-all", "wrapped", "beyond-the-store"],
)
def test_what_cannot_be_is_refused_by_name(n_correct: int, n_examples: int) -> None:
    with pytest.raises(UpdateError, match=f"{n_correct} of {n_examples} examples") as caught:
        report_from_proto(message(n_correct=n_correct, n_examples=n_examples))
    assert caught.value.refusal is Refusal.BAD_HEADER
    assert "\n" not in str(caught.value)


def test_a_diverged_model_is_told_without_a_number() -> None:
    sent = message(n_correct=1, n_examples=2)
    sent.evaluation.ClearField("mean_loss")
    found = report_from_proto(sent)
    assert found.evaluation == Evaluation(n_correct=1, n_examples=2, mean_loss=DIVERGED)
    assert report_to_proto(found) == sent


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused(loss: float) -> None:
    with pytest.raises(UpdateError) as caught:
        report_from_proto(message(n_correct=1, n_examples=2, mean_loss=loss))
    assert caught.value.refusal is Refusal.NOT_FINITE

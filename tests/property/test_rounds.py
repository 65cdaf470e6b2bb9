"""Laws of the round machine under any order of events."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.rounds import (
    MAX_EXTENSIONS,
    Answered,
    Close,
    Extend,
    Joined,
    Lost,
    Opened,
    Push,
    RoundMachine,
    Stop,
    Tick,
)
from fedcore.config import Schedule

CLIENTS = ("client-0", "client-1", "client-2", "client-3")
DEADLINE_S = 10.0

events = st.one_of(
    st.sampled_from(CLIENTS).map(lambda c: Joined(client_id=c)),
    st.sampled_from(CLIENTS).map(lambda c: Lost(client_id=c)),
    st.tuples(st.sampled_from(CLIENTS), st.integers(0, 4)).map(
        lambda pair: Answered(client_id=pair[0], round=pair[1])
    ),
    st.just(Tick()),
)
steps = st.lists(st.tuples(events, st.floats(0, 15)), max_size=60)


@st.composite
def machines(draw):
    schedule = Schedule(
        quorum=draw(st.integers(1, len(CLIENTS))),
        wait_for_all=draw(st.booleans()),
        deadline_s=DEADLINE_S,
    )
    return RoundMachine(clients=CLIENTS, schedule=schedule), schedule


@settings(max_examples=300)
@given(machines(), steps)
def test_whatever_happens_a_round_closes_once_and_never_without_its_quorum(machine_and, story):
    """A second, slow account of the story is kept beside the machine and must agree with it."""
    machine, schedule = machine_and
    now_s, number = 0.0, 0
    live, answered, open_ = set(), set(), True
    opened_s, extensions = 0.0, 0
    assert machine.handle(Opened(round=0), now_s=now_s) == []
    for event, later_s in story:
        now_s += later_s
        actions = machine.handle(event, now_s=now_s)
        if isinstance(event, Joined):
            live.add(event.client_id)
        if isinstance(event, Lost):
            live.discard(event.client_id)
        if isinstance(event, Answered) and open_ and event.round == number:
            answered.add(event.client_id)
        for action in actions:
            assert open_, "nothing may follow a Close or a Stop"
            assert action.round == number if not isinstance(action, Stop) else True
            if isinstance(action, Push):
                assert isinstance(event, Joined)
                assert action.client_id == event.client_id
                assert action.client_id not in answered
            if isinstance(action, Extend):
                assert now_s >= opened_s + DEADLINE_S
                opened_s, extensions = now_s, extensions + 1
                assert extensions <= MAX_EXTENSIONS
            if isinstance(action, Stop):
                assert extensions == MAX_EXTENSIONS
                return
            if isinstance(action, Close):
                assert action.answered == tuple(sorted(answered))
                assert len(answered) >= schedule.quorum
                if schedule.wait_for_all:
                    assert answered == set(CLIENTS)
                elif now_s < opened_s + DEADLINE_S:
                    assert not (live - answered), "a live client was asked and is still working"
                open_ = False
        if open_ and answered == set(CLIENTS):
            raise AssertionError("everybody has answered and the round is still open")
        if not open_:
            number += 1
            live_before = set(live)
            opened = machine.handle(Opened(round=number), now_s=now_s)
            assert [a.client_id for a in opened] == sorted(live_before)
            answered, open_, opened_s, extensions = set(), True, now_s, 0


@given(
    machines(),
    st.permutations(CLIENTS),
    st.lists(st.sampled_from(CLIENTS), unique=True, max_size=3),
)
def test_a_restart_with_the_same_answers_closes_alike(machine_and, order, before):
    """Opened with answers from before a restart, only the others are asked, and all still close."""
    machine, _ = machine_and
    for client_id in CLIENTS:
        machine.handle(Joined(client_id=client_id), now_s=0.0)
    asked = machine.handle(Opened(round=3, answered=frozenset(before)), now_s=0.0)
    assert asked == [Push(round=3, client_id=c) for c in CLIENTS if c not in before]
    closes = []
    for client_id in order:
        closes += machine.handle(Answered(round=3, client_id=client_id), now_s=1.0)
    assert closes == [Close(round=3, answered=CLIENTS)]


def test_a_lost_client_lets_the_others_close_and_is_asked_again_when_it_comes_back():
    schedule = Schedule(quorum=2, wait_for_all=False, deadline_s=DEADLINE_S)
    machine = RoundMachine(clients=CLIENTS[:3], schedule=schedule, live=CLIENTS[:3])
    assert len(machine.handle(Opened(round=0), now_s=0.0)) == 3
    assert machine.handle(Answered(round=0, client_id="client-0"), now_s=1.0) == []
    assert machine.handle(Lost(client_id="client-2"), now_s=1.0) == []
    assert machine.handle(Joined(client_id="client-2"), now_s=2.0) == [
        Push(round=0, client_id="client-2")
    ]
    assert machine.handle(Lost(client_id="client-2"), now_s=3.0) == []
    assert machine.handle(Answered(round=0, client_id="client-1"), now_s=4.0) == [
        Close(round=0, answered=("client-0", "client-1"))
    ]


def test_who_never_came_is_waited_for_until_the_deadline():
    schedule = Schedule(quorum=1, wait_for_all=False, deadline_s=DEADLINE_S)
    machine = RoundMachine(clients=CLIENTS[:2], schedule=schedule, live=CLIENTS[:1])
    machine.handle(Opened(round=0), now_s=0.0)
    assert machine.handle(Answered(round=0, client_id="client-0"), now_s=1.0) == []
    assert machine.handle(Tick(), now_s=DEADLINE_S - 1) == []
    assert machine.handle(Tick(), now_s=DEADLINE_S) == [Close(round=0, answered=("client-0",))]
    machine.handle(Opened(round=1), now_s=20.0)
    assert machine.handle(Answered(round=1, client_id="client-0"), now_s=21.0) == [
        Close(round=1, answered=("client-0",))
    ]

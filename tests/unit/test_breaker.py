"""The breaker: who fails again and again is left alone, tried with one call, and asked again when that goes well."""

from __future__ import annotations

import pytest

from loquent.domain.errors import (
    Cancelled,
    ContextOverflow,
    EngineBusy,
    EngineFailed,
    EngineTimeout,
    Invalid,
    LoquentError,
    ModelLoading,
    NotInstalled,
    NotYet,
    Unavailable,
)
from loquent.services.breaker import CLOSED, FAULTS, FIRST, HALF_OPEN, LONGEST, OPEN, TRIAL, Breaker, tells


class Clock:
    """Time that stands still until it is moved."""

    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def failing(breaker: Breaker, times: int = FAULTS) -> Breaker:
    """So many calls that went wrong, one after the other."""
    for _ in range(times):
        breaker.leave(False, is_trial=breaker.enter())
    return breaker


def rested(breaker: Breaker, clock: Clock) -> Breaker:
    """When its rest is over."""
    clock.seconds += breaker.wait() + 0.001
    return breaker


def test_it_opens_at_so_many_faults_in_a_row_and_not_before(breaker: Breaker) -> None:
    failing(breaker, FAULTS - 1)
    assert (breaker.state, breaker.wait()) == (CLOSED, 0)
    failing(breaker, 1)
    assert breaker.state == OPEN
    assert FIRST * 0.9 <= breaker.wait() <= FIRST * 1.1


def test_a_good_call_in_between_begins_the_row_anew(breaker: Breaker) -> None:
    failing(breaker, FAULTS - 1)
    breaker.leave(True)
    assert failing(breaker, FAULTS - 1).state == CLOSED


def test_what_says_nothing_of_the_engine_neither_counts_nor_forgives(breaker: Breaker) -> None:
    failing(breaker, FAULTS - 1)
    for _ in range(FAULTS):
        breaker.leave(None)
    assert breaker.state == CLOSED
    assert failing(breaker, 1).state == OPEN


def test_when_the_rest_is_over_one_call_alone_is_let_through(breaker: Breaker, clock: Clock) -> None:
    rested(failing(breaker), clock)
    assert (breaker.state, breaker.wait()) == (HALF_OPEN, 0)
    assert breaker.enter()
    assert breaker.wait() == TRIAL
    assert breaker.state == HALF_OPEN


def test_a_trial_that_goes_well_closes_it_and_the_next_rest_is_short_again(breaker: Breaker, clock: Clock) -> None:
    failing(breaker)
    for _ in range(3):
        rested(breaker, clock).leave(False, is_trial=breaker.enter())
    assert breaker.wait() > FIRST * 4
    rested(breaker, clock).leave(True, is_trial=breaker.enter())
    assert (breaker.state, breaker.wait()) == (CLOSED, 0)
    assert failing(breaker).wait() <= FIRST * 1.1


def test_each_trial_that_fails_doubles_the_rest_up_to_a_bound(breaker: Breaker, clock: Clock) -> None:
    failing(breaker)
    waits = []
    for _ in range(8):
        waits.append(breaker.wait())
        rested(breaker, clock).leave(False, is_trial=breaker.enter())
    assert all(0.9 <= wait / min(LONGEST, FIRST * 2**number) <= 1.1 for number, wait in enumerate(waits))


def test_many_that_fail_together_are_one_fall_and_one_rest(breaker: Breaker, clock: Clock) -> None:
    trials = [breaker.enter() for _ in range(50)]
    for is_trial in trials:
        breaker.leave(False, is_trial=is_trial)
    assert breaker.wait() <= FIRST * 1.1
    rested(breaker, clock).leave(False, is_trial=breaker.enter())
    assert breaker.wait() <= FIRST * 2.2


def test_a_trial_whose_caller_leaves_is_not_lost(breaker: Breaker, clock: Clock) -> None:
    rested(failing(breaker), clock)
    breaker.leave(None, is_trial=breaker.enter())
    assert (breaker.state, breaker.wait()) == (HALF_OPEN, 0)
    assert breaker.enter()


def test_a_call_from_before_the_fall_neither_closes_it_nor_takes_the_trials_place(
    breaker: Breaker, clock: Clock
) -> None:
    early = [breaker.enter() for _ in range(3)]
    rested(failing(breaker), clock)
    assert breaker.enter()
    for is_trial, how in zip(early, (True, False, None), strict=True):
        breaker.leave(how, is_trial=is_trial)
        assert (breaker.state, breaker.wait()) == (HALF_OPEN, TRIAL)


def test_the_trials_first_piece_lets_all_call_and_until_its_end_one_fault_opens_it_anew(
    breaker: Breaker, clock: Clock
) -> None:
    rested(failing(breaker), clock)
    assert breaker.enter()
    breaker.close()
    assert (breaker.state, breaker.wait(), breaker.enter()) == (CLOSED, 0, False)
    breaker.leave(False)
    assert breaker.state == OPEN
    rested(breaker, clock).enter()
    breaker.close()
    breaker.leave(True)
    assert failing(breaker, FAULTS - 1).state == CLOSED


def test_it_rests_for_as_long_as_the_engine_asked_whatever_else_ends_meanwhile(breaker: Breaker, clock: Clock) -> None:
    breaker.rest(7)
    breaker.rest(3)
    breaker.leave(True)
    assert breaker.state == OPEN
    assert breaker.wait() == pytest.approx(7)
    clock.seconds += 7
    assert (breaker.state, breaker.wait(), breaker.enter()) == (CLOSED, 0, False)
    breaker.rest(86_400)
    assert breaker.wait() == pytest.approx(LONGEST)


def with_status(fault: LoquentError, status: int) -> LoquentError:
    fault.engine_status = status
    return fault


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (None, True),
        (Invalid("x"), True),
        (ContextOverflow("x"), True),
        (Unavailable("x"), False),
        (EngineTimeout("x"), False),
        (with_status(EngineFailed("the key"), 401), False),
        (with_status(EngineFailed("the quota"), 429), False),
        (with_status(EngineFailed("a teapot"), 418), None),
        (EngineFailed("unreadable"), None),
        (EngineBusy("x"), None),
        (ModelLoading("x"), None),
        (NotYet("x"), None),
        (NotInstalled("x"), None),
        (Cancelled("x"), None),
        (GeneratorExit(), None),
        (KeyError("ours"), None),
    ],
)
def test_only_what_speaks_of_the_engines_health_counts(fault: BaseException | None, says: bool | None) -> None:
    assert tells(fault) is says

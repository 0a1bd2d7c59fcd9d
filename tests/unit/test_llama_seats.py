"""Seats in llama.cpp: nobody with a short prompt sits behind a long one, and each goes where it is recalled."""

from __future__ import annotations

import threading

from loquent.engines.llama_seats import LONG, Said, Seats

WAIT = 10.0


def long(name: str) -> Said:
    return (f"{name} " + "word " * LONG,)


def short(name: str) -> Said:
    return ("You are kind.", f"{name}, who are you?")


def short_done(seats: Seats, said: Said) -> int:
    seat = seats.take(said, is_long=False)
    seats.read(seat)
    seats.leave(seat)
    return seat


def test_what_is_long_is_what_is_new() -> None:
    seats = Seats(2)
    assert seats.is_long(long("a"))
    assert not seats.is_long(short("a"))
    seat = seats.take(long("a"), is_long=True)
    assert seats.is_long((*long("a"), "And why?")), "whoever recalls it is busy"
    seats.leave(seat)
    assert not seats.is_long((*long("a"), "And why?"))
    assert seats.is_long(long("b"))


def test_a_long_one_sits_behind_and_short_ones_before_it_wherever_it_sits() -> None:
    seats = Seats(4)
    at = seats.take(long("a"), is_long=True)
    assert at == 3
    assert sorted(seats.take(short(name), is_long=False) for name in "bcd") == [0, 1, 2]
    for seat in range(4):
        seats.leave(seat)  # the long one last, so that its seat is the newest
    talking = seats.take(long("a"), is_long=False)  # it is recalled: nothing of it is new
    assert talking == 3
    seats.read(talking)
    assert seats.take(long("e"), is_long=True) == 2
    assert {seats.take(short(name), is_long=False) for name in "fg"} == {0, 1}


def test_a_short_one_goes_where_it_is_recalled_otherwise_where_nobody_was_for_longest() -> None:
    seats = Seats(3)
    assert [short_done(seats, (f"{name} asks at length",)) for name in "abc"] == [0, 1, 2]
    assert short_done(seats, ("b asks at length", "answer", "more")) == 1
    assert short_done(seats, ("d is new",)) == 0
    assert short_done(seats, ("c asks at length", "answer")) == 2
    assert short_done(seats, ("e is new",)) == 1


def test_a_short_one_that_is_recalled_behind_a_long_one_goes_before_it() -> None:
    seats = Seats(3)
    for name in "abc":
        short_done(seats, (f"{name} asks at length",))
    other = seats.take(("c asks at length",), is_long=False)
    assert other == 2
    seats.read(other)
    at = seats.take(long("l"), is_long=True)
    seats.leave(other)
    assert at == 1
    assert seats.take(("c asks at length", "more"), is_long=False) == 0
    seats.read(at)
    assert seats.take(("c asks at length", "more"), is_long=False) == 2, "there is nothing to be read before it now"


def test_a_long_one_waits_until_the_short_one_behind_it_is_read() -> None:
    seats = Seats(2)
    short_done(seats, short("a"))
    behind = seats.take(short("b"), is_long=False)
    assert behind == 0
    seats.leave(behind)
    behind = seats.take(("z" * 10,), is_long=False)
    assert behind == 1
    taken: list[int] = []
    came = threading.Thread(target=lambda: taken.append(seats.take(long("l"), is_long=True)))
    came.start()
    came.join(0.1)
    assert not taken
    seats.read(behind)
    came.join(WAIT)
    assert taken == [0]


def test_who_finds_no_seat_waits_for_one() -> None:
    seats = Seats(1)
    seat = seats.take(short("a"), is_long=False)
    taken: list[int] = []
    came = threading.Thread(target=lambda: taken.append(seats.take(short("b"), is_long=False)))
    came.start()
    came.join(0.1)
    assert not taken
    seats.leave(seat)
    came.join(WAIT)
    assert taken == [0]

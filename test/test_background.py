"""Calls in the background: their order, how far they may fall behind, and their errors."""

from __future__ import annotations

import threading

import pytest

from anypcc_ros.codec.background import BEHIND, Background, caller, later


def test_calls_keep_their_order_and_few_wait() -> None:
    background, done, gate = Background(), [], threading.Event()
    started = threading.Semaphore(0)

    def call(number: int) -> None:
        started.release()
        gate.wait(10)
        done.append(number)

    def many() -> None:
        for number in range(3 * BEHIND):
            background.call(call, number)
            given.append(number)

    given: list[int] = []
    caller = threading.Thread(target=many)
    caller.start()
    assert started.acquire(timeout=10)
    assert len(given) <= BEHIND + 1
    gate.set()
    caller.join(10)
    background.wait()
    assert done == given == list(range(3 * BEHIND))


@pytest.mark.parametrize("later", [0, 2 * BEHIND])
def test_an_error_reaches_the_caller(later: int) -> None:
    background = Background()

    def fail() -> None:
        raise ArithmeticError

    def give() -> None:
        background.call(fail)
        for _ in range(later):
            background.call(int)
        background.wait()

    with pytest.raises(ArithmeticError):
        give()


@pytest.mark.parametrize("threads", [1, 2])
def test_with_one_thread_or_two_all_calls_are_made_in_order(threads: int) -> None:
    calls, done = caller(threads), []
    for number in range(9):
        calls.call(done.append, number)
    calls.wait()
    assert done == list(range(9))


def test_an_error_leaves_no_call_behind() -> None:
    begun, done = threading.Event(), []

    def call() -> None:
        begun.set()
        left.wait(0.2)  # until the block is left, if that does not wait for this call
        done.append(left.is_set())

    def give() -> None:
        with Background() as background:
            for _ in range(BEHIND):
                background.call(call)
            assert begun.wait(10)
            raise ArithmeticError

    left = threading.Event()
    with pytest.raises(ArithmeticError):
        give()
    left.set()
    assert done in ([False], [False] * 2)  # what had begun is over, and the others are not made


def test_a_block_without_an_error_is_left_after_all_calls() -> None:
    done: list[int] = []
    with Background() as background:
        for number in range(BEHIND):
            background.call(done.append, number)
    assert done == list(range(BEHIND))
    with pytest.raises(ZeroDivisionError), Background() as background:
        background.call(divmod, 1, 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_result_comes_later(threads: int) -> None:
    assert later(threads, divmod, 17, 5)() == (3, 2)
    failed = later(threads, divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        failed()


def test_a_second_thread_begins_at_once() -> None:
    begun = threading.Event()
    result = later(2, begun.set)
    assert begun.wait(10)
    assert result() is None

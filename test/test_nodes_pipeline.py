"""Frames overlap in a node: what is waiting, what is at work, and the order in which it leaves."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from anypcc_ros.nodes.pipeline import Arrival, InOrder, NewestOnly


def test_the_newest_waits_and_those_taken_are_numbered() -> None:
    newest = NewestOnly()
    assert not newest.put(Arrival(b"0", 0.0))
    assert newest.put(Arrival(b"1", 0.0))
    assert newest.take() == (0, Arrival(b"1", 0.0))
    with ThreadPoolExecutor(2) as readers:
        waiting = [readers.submit(newest.take) for _ in range(2)]
        for data in (b"2", b"3"):
            while newest.put(Arrival(data, 0.0)):  # until the one before was taken
                time.sleep(0.001)
        taken = sorted(reader.result(10) for reader in waiting)
        assert [number for number, _ in taken] == [1, 2]
        waiting = [readers.submit(newest.take) for _ in range(2)]
        newest.close()
        assert [reader.result(10) for reader in waiting] == [None, None]


def test_what_began_first_leaves_first_also_after_an_error() -> None:
    order, left, gate = InOrder(), [], threading.Event()

    def work(number: int) -> None:
        if number == 0:
            gate.wait(10)  # the first one takes longest
        with order.turn(number):
            left.append(number)
            if number == 1:
                raise ValueError

    with ThreadPoolExecutor(4) as workers:
        jobs = [workers.submit(work, number) for number in (3, 1, 0, 2)]
        time.sleep(0.05)
        assert left == []
        gate.set()
        failed = [job.exception(10) for job in jobs]
    assert left == [0, 1, 2, 3]
    assert [type(error) for error in failed] == [type(None), ValueError, type(None), type(None)]

"""The watch over calls that hang, and the threads that take over from them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.labeler.threads import Workers
from pipeline.labeler.watchdog import Overtaken, Watchdog


@contextlib.contextmanager
def watch(limit_s: float):
    taken: list[tuple[str, threading.Thread]] = []
    made = Watchdog[str](limit_s, lambda *what: taken.append(what))
    yield made, taken
    made.close()


def wait_for(condition, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_call_in_time_is_left_alone_and_its_errors_come_through():
    with watch(60.0) as (made, taken):
        with made.over("one") as clock:
            assert clock.task == "one"
        with pytest.raises(ZeroDivisionError), made.over("two"):
            raise ZeroDivisionError
        assert taken == []


@pytest.mark.parametrize("ends", [None, ZeroDivisionError])
def test_a_call_that_is_overdue_is_handed_over_once_and_its_result_dropped(ends):
    with watch(0.1) as (made, taken):

        def late():
            with made.over("late"):
                wait_for(lambda: taken)
                time.sleep(0.3)
                if ends:
                    raise ends

        with pytest.raises(Overtaken):
            late()
        assert taken == [("late", threading.current_thread())]


def test_waiting_for_others_does_not_count():
    meanwhile: list[object] = []
    with watch(0.2) as (made, taken):

        def patient():
            with made.over("patient") as clock:
                with clock.paused():
                    time.sleep(1.0)
                meanwhile.extend(taken)
                wait_for(lambda: taken)

        with pytest.raises(Overtaken):
            patient()
    assert meanwhile == []


def test_a_process_that_was_stopped_makes_nobody_late(tmp_path):
    code = """
import time
from pipeline.labeler.watchdog import Watchdog
watch = Watchdog(1.0, lambda *what: print("overdue", flush=True))
with watch.over("call"):
    print("begun", flush=True)
    time.sleep(0.3)
print("in time", flush=True)
"""
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | path)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.0)
    process.send_signal(signal.SIGCONT)
    assert process.communicate()[0] == "in time\n"


def test_a_thread_that_hangs_is_replaced_and_ends_when_it_comes_back():
    workers = Workers(1, on_start=lambda: None)
    free, thread = threading.Event(), []

    def hang():
        thread.append(threading.current_thread())
        free.wait()
        return "late"

    late = workers.submit(0, hang)
    wait_for(lambda: thread)
    following = workers.submit(1, threading.current_thread)
    assert not following.done()
    workers.replace(thread[0])
    assert following.result(20) is not thread[0]
    assert workers.num_lost == 1
    free.set()
    assert late.result(20) == "late"
    thread[0].join(20)
    assert workers.num_lost == 0
    workers.close()


def test_a_hanging_thread_keeps_nobody_from_closing():
    workers = Workers(1, on_start=lambda: None)
    free, thread = threading.Event(), []
    workers.submit(0, lambda: (thread.append(threading.current_thread()), free.wait()))
    wait_for(lambda: thread)
    workers.replace(thread[0])
    workers.close()
    assert thread[0].is_alive()
    free.set()


def test_a_process_whose_interpreter_is_stuck_ends_itself_and_says_where():
    code = """
import ctypes
from pipeline.engines import end_when_stuck as stuck
stuck.STUCK_S = 1.0
stuck.exit_when_stuck()
import time; time.sleep(1.5)  # Python code goes on meanwhile
print("alive", flush=True)
ctypes.PyDLL(None).sleep(3600)
"""
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | path
    )
    assert ran.stdout == "alive\n"
    assert ran.returncode == 1
    assert 'File "<string>", line 8' in ran.stderr


def test_closing_does_not_wait_for_a_call_that_hangs(monkeypatch):
    monkeypatch.setattr("pipeline.labeler.threads._CLOSE_S", 0.2)
    workers = Workers(2, on_start=lambda: None)
    free, begun = threading.Event(), threading.Event()
    workers.submit(0, lambda: (begun.set(), free.wait()))
    assert begun.wait(20)
    workers.close()
    assert sum(thread.is_alive() for thread in workers._threads) == 1
    free.set()

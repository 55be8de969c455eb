"""What a kernel says while nobody reads it is all there when somebody does. That a real kernel is
asked for it stands in test_browser.py."""

from types import SimpleNamespace

import pytest
import zmq

from moeviz import panels
from moeviz.panels import backlog

MESSAGE = b"m" * 1_000
BUFFER = 100_000  # bytes that the network holds
COUNT = 4_000  # more than a thousand at each end, and those


@pytest.fixture
def sockets(monkeypatch):
    """The one that a kernel speaks by, and the server's that hears it."""
    with (
        zmq.Context() as context,
        context.socket(zmq.PUB) as says,
        context.socket(zmq.SUB) as hears,
    ):
        says.linger = hears.linger = 0
        says.sndbuf = hears.rcvbuf = BUFFER
        hears.subscribe(b"")
        hears.connect(f"tcp://127.0.0.1:{says.bind_to_random_port('tcp://127.0.0.1')}")
        while not hears.poll(20):
            says.send(b"are you there?")
        thread = SimpleNamespace(socket=says, schedule=lambda work: work())
        shell = SimpleNamespace(kernel=SimpleNamespace(iopub_thread=thread))
        monkeypatch.setattr("IPython.get_ipython", lambda: shell)
        backlog.keep_messages.cache_clear()
        yield says, hears
        backlog.keep_messages.cache_clear()


def heard_at_last(says, hears, patience):
    """How many of COUNT messages are heard by one that begins to listen after the last, and gives
    up when nothing comes for so many milliseconds."""
    for _ in range(COUNT):
        says.send(MESSAGE)
    count = 0
    while count < COUNT and hears.poll(patience):
        count += hears.recv() == MESSAGE
    return count


def test_a_server_that_is_behind_loses_nothing_of_what_a_panel_sends(sockets):
    assert heard_at_last(*sockets, patience=500) < COUNT  # a kernel's own way
    assert panels.Slots
    assert heard_at_last(*sockets, patience=60_000) == COUNT


def test_a_limit_that_is_higher_or_none_stays(sockets):
    says, _ = sockets
    for limit in (0, 2 * backlog.KEPT):
        says.sndhwm = limit
        backlog.keep_messages.__wrapped__()
        assert says.sndhwm == limit


def test_where_no_kernel_runs_nothing_is_done(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    backlog.keep_messages.__wrapped__()

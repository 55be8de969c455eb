"""What happened, as numpy arrays: routes, runs, kernel launches, and how they are stored."""

from moeviz.records.dispatch import DispatchTrace
from moeviz.records.routes import Trace
from moeviz.records.runs import Snapshot

__all__ = ["DispatchTrace", "Snapshot", "Trace"]

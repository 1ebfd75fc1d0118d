"""A request to end this process. A training saves a checkpoint before it obeys."""

from __future__ import annotations

from types import FrameType


class Stopped(BaseException):
    """A requested end of this process. Not an Exception, so that no handler treats it as a
    failure."""


class StopRequest:
    """The state of a request to end this process by a signal.

    A training asks after each step, saves its state and raises Stopped. Without a training that
    asks, the signal ends the process at once, and so does a second signal.
    """

    def __init__(self) -> None:
        self.signal = 0
        """Number of the received signal; 0 for none."""
        self._is_awaited = False

    def __call__(self) -> bool:
        self._is_awaited = True
        return self.signal != 0

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        """Handle a signal. Raise Stopped if no training asks, or if this is the second signal."""
        ends_at_once = self.signal or not self._is_awaited
        self.signal = signum
        if ends_at_once:
            raise Stopped

    def release(self) -> None:
        """Note that the training has ended. Raise Stopped if a signal came during the training."""
        self._is_awaited = False
        if self.signal:
            raise Stopped

    def reset(self) -> None:
        """Forget the signal."""
        self.signal, self._is_awaited = 0, False


stop_request = StopRequest()
"""The request of this process. Signals belong to a process, too."""

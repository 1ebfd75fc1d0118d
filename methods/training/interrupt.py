"""A request to end this process, which a training answers by a checkpoint."""

from __future__ import annotations

from types import FrameType


class Stopped(BaseException):
    """This process was asked to end. It is no Exception, so that nobody takes it for a failure."""


class StopRequest:
    """Whether a signal asked this process to end.

    A training asks after each step, saves its state and raises Stopped. Where no training asks, the signal ends the
    process at once, and so does a second signal.
    """

    def __init__(self) -> None:
        self.signal = 0
        """The signal received; 0 for none."""
        self._is_awaited = False

    def __call__(self) -> bool:
        self._is_awaited = True
        return self.signal != 0

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        """A signal handler.

        Raises:
            Stopped: no training asks, or this is the second signal.
        """
        ends_at_once = self.signal or not self._is_awaited
        self.signal = signum
        if ends_at_once:
            raise Stopped

    def release(self) -> None:
        """No training asks any more.

        Raises:
            Stopped: a signal came while one did.
        """
        self._is_awaited = False
        if self.signal:
            raise Stopped

    def reset(self) -> None:
        """Forget it."""
        self.signal, self._is_awaited = 0, False


stop_request = StopRequest()
"""Of this process, as signals are."""

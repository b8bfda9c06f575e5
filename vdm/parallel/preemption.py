"""Handles signals and preemption notices, so that all processes stop at the same step."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class PreemptionNotice:
    """Records SIGTERM, Ctrl-C, SIGHUP or a closed output, so that the state is saved before exit.

    Schedulers send SIGTERM some seconds before SIGKILL. With several processes, JAX handles
    SIGTERM: a notice to one process reaches all of them at the same step
    (`multihost_utils.reached_preemption_sync_point`), and other signals are forwarded as SIGTERM.
    Every process must therefore call `reached` after every step. A second Ctrl-C ends the process
    immediately.
    """

    def __init__(self) -> None:
        self.cause = "preempted"
        self._received = False
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Replaces the signal handlers, so that signals no longer end the process.

        Call it after the first step: before, there is nothing to save, and Python handles no
        signals during compilation, which may exceed the grace period.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            if number != signal.SIGTERM or not jax.distributed.is_initialized():
                self._previous_handlers[number] = signal.signal(number, self._receive)

    def reached(self, step: int) -> bool:
        """Returns whether to save the state after this step and exit."""
        return multihost_utils.reached_preemption_sync_point(step) or self._received

    def report(self, line: str) -> None:
        """Prints a line; a closed output (nobody reads it any more) counts as a notice."""
        try:
            print(line, flush=True)
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open until the process ends
            self._receive_from("the output was closed")

    def __enter__(self) -> "PreemptionNotice":
        return self

    def __exit__(self, *_) -> None:
        """Restores the previous handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            # Restores the default action, which also works while C++ code runs.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        cause = {signal.SIGINT: "interrupted", signal.SIGHUP: "the terminal was closed"}
        self._receive_from(cause.get(signal.Signals(number), self.cause))

    def _receive_from(self, cause: str) -> None:
        self.cause = cause
        if jax.distributed.is_initialized():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._received = True

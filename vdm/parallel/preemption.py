"""Preemption: SIGTERM and the platform's notice, seen by all processes at the same step."""

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class PreemptionNotice:
    """Listens for SIGTERM, which schedulers send some seconds before SIGKILL.

    With several processes, JAX listens instead: a notice to one process reaches all of them at the
    same step (`multihost_utils.reached_preemption_sync_point`). Every process therefore has to call
    `reached` after every step.
    """

    def __init__(self) -> None:
        self._received = False
        self._previous_handler: Any = None

    def listen(self) -> None:
        """Replaces the handler of SIGTERM, so that the signal no longer ends the process.

        Called after the first step: before it there is nothing to save, and Python handles no
        signals during compilation, which may outlast the grace period.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and not jax.distributed.is_initialized():
            self._previous_handler = signal.signal(signal.SIGTERM, self._receive)

    def reached(self, step: int) -> bool:
        """Returns whether to save the state after this step and exit."""
        return multihost_utils.reached_preemption_sync_point(step) or self._received

    def __enter__(self) -> "PreemptionNotice":
        return self

    def __exit__(self, *_) -> None:
        """Restores the previous handler of SIGTERM."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)
            self._previous_handler = None

    def _receive(self, *_) -> None:
        self._received = True

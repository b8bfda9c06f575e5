"""The notice that the machines are wanted back."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class PreemptionNotice:
    """Listens for SIGTERM, which schedulers send some time before they kill.

    Of several processes one that is told is enough: JAX passes it on, and all see the notice at the
    same step (`multihost_utils.reached_preemption_sync_point`), of which `reached` has to be asked
    at every one.
    """

    def __init__(self):
        self._came = False
        self._before = None

    def listen(self) -> None:
        """From here on SIGTERM does not end the process.

        Called after the first step: before there is nothing to save, and compilation, which may
        take longer than the time that is left, does not hear signals.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and not jax.distributed.is_initialized():  # which listens by itself
            self._before = signal.signal(signal.SIGTERM, self._note)

    def reached(self, step: int) -> bool:
        """Whether to save the state after this step and leave."""
        return multihost_utils.reached_preemption_sync_point(step) or self._came

    def __enter__(self) -> "PreemptionNotice":
        return self

    def __exit__(self, *_) -> None:
        """SIGTERM does again what it did before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _note(self, *_) -> None:
        self._came = True

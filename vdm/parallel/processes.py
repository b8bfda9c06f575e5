"""One process or many: how they find each other, and what ends them all when one is lost."""

import dataclasses
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

import jax

from vdm.parallel.watchdog import LastWords

# Seconds. The first to finish its work waits for the last, such as for the report of an evaluation.
_SHUTDOWN_TIMEOUT = 24 * 3600
GOES_ON = "the same command goes on from the newest checkpoint"


@dataclasses.dataclass(frozen=True)
class Start:
    """How to start: what is not given here, the cluster says.

    Attributes:
      coordinator: 'host:port' of process 0; '' to detect it.
      num_processes: in all; 0 to detect it, 1 for one process whatever the cluster says.
      process_id: of this one, from 0; -1 to detect it.
      connect_timeout: seconds for all processes to come together.
      heartbeat_timeout: seconds without a sign of life after which a process is taken for lost, and
        ends all others.
    """

    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1
    connect_timeout: int = 30
    heartbeat_timeout: int = 30


class Preempted(Exception):
    """The machines are wanted back: what there is has been saved."""

    STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command, given again, succeeds


class NotSaved(OSError):
    """A checkpoint cannot be written; those before it are kept."""


class Processes:
    """The processes of a run, of which this is one.

    Only process 0 prints, and writes files; of checkpoints each writes its part.
    """

    def __init__(self):
        self._last_words: LastWords | None = None
        self._index: int | None = None  # of this process, where there may be others

    def connect(self, start: Start, *, preemptible: bool) -> None:
        """Connects the processes: before anything touches a device.

        TPU pods, Slurm, Kubernetes and Open MPI are detected by `jax.distributed`. Where there is
        no cluster and nothing is given, this is the only process.

        Args:
          start: how.
          preemptible: whether the run looks at `multihost_utils.reached_preemption_sync_point`;
            where it does not, SIGTERM ends it as any other program.

        Raises:
          ValueError: the processes cannot be connected, with one sentence.
        """
        _check(start)
        if start.num_processes == 1 and not start.coordinator:
            return
        jax.config.update("jax_enable_preemption_service", preemptible)
        where = f" at {start.coordinator}" if start.coordinator else ""
        self._last_words = LastWords()
        self._last_words.are(
            if_aborted=f"not all processes came together{where} in {start.connect_timeout} s "
            "(--connect_timeout)",
            if_killed=f"killed while it waited for the other processes{where}",
        )
        if start.coordinator and start.process_id > 0:
            _wait_for(start.coordinator, start.connect_timeout)
        if not _initialize(start):
            self._last_words.not_needed()
            self._last_words = None
            return
        # Between CPUs; accelerators have their own.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        self._index = jax.process_index()
        who = f"process {self._index} of {jax.process_count()}"
        self._last_words.are(
            if_aborted=f"{who} ends because another process was lost: it died, or gave no sign of "
            f"life for {start.heartbeat_timeout} s (the lines above name it); {GOES_ON}",
            if_killed=f"{who} was killed, by a signal or for want of memory; {GOES_ON}",
        )
        if self._index:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  until the end of the process

    def run(self, work: Callable[[], None]) -> None:
        """Does the work of a command, and ends the process with one sentence where that fails."""
        try:
            work()
            self.finish()
        except KeyboardInterrupt:
            self.fail(f"interrupted; {GOES_ON}", 130)
        except Preempted as notice:
            self.leave(notice)
        except NotSaved as error:  # After which Orbax's threads would go on to complain.
            self.fail(str(error), 1, at_once=True)
        except (ArithmeticError, OSError) as error:
            self.fail(str(error), 1)
        except Exception as error:
            if self.is_loss(error):
                self.fail(f"another process was lost: {first_line(error)}; {GOES_ON}", 1)
            traceback.print_exc()
            self.fail(f"{type(error).__name__}: {error}", 1)

    def fail(self, sentence: str, status: int, *, at_once: bool = False) -> NoReturn:
        """Ends this process with one sentence, and thereby the others, which would wait for it.

        A process that is alone first ends what it writes in the background, unless `at_once`.
        """
        who = "" if self._index is None else f"process {self._index}: "
        self._leave(f"error: {who}{sentence}", status, at_once=at_once)

    def leave(self, notice: Preempted) -> NoReturn:
        """Ends this process, as all others, because of a notice."""
        self._leave("" if self._index else str(notice), Preempted.STATUS)

    def _leave(self, sentence: str, status: int, *, at_once: bool = False) -> NoReturn:
        sys.stdout.flush()
        if sentence:
            print(sentence, file=sys.stderr, flush=True)
        if self._last_words is not None:
            self._last_words.not_needed()
        if self._index is None and not at_once:
            sys.exit(status)
        if self._index == 0:
            time.sleep(2)  # The others are ended when the coordinator goes: they may speak first.
        os._exit(status)  # The ordinary way out waits for the other processes.

    def is_loss(self, error: Exception) -> bool:
        """Whether an error says that another process was lost, in the words of the collectives."""
        words = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")
        return self._index is not None and any(word in str(error) for word in words)

    def finish(self) -> None:
        """The work is done; waits for the others."""
        if self._last_words is not None:
            jax.distributed.shutdown()
            self._last_words.not_needed()
            self._last_words = None


def _check(start: Start) -> None:
    if start.coordinator:
        host, _, port = start.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"--coordinator is {start.coordinator!r}, and must be HOST:PORT")
        if not 0 <= start.process_id < start.num_processes:
            raise ValueError(
                f"--coordinator needs --num_processes, which is {start.num_processes}, and "
                f"--process_id, which is {start.process_id} and must be from 0 up and less"
            )
    elif start.process_id >= 0 or start.num_processes > 1:
        raise ValueError("--num_processes and --process_id need --coordinator=HOST:PORT")
    for name in ("connect_timeout", "heartbeat_timeout"):
        if getattr(start, name) < 1:
            raise ValueError(f"--{name} is {getattr(start, name)}, and must be at least 1")


def _wait_for(coordinator: str, timeout: float) -> None:
    """Until process 0 listens, which JAX cannot be asked to wait for without being aborted."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            left = max(0.1, end - time.monotonic())
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise ValueError(
                    f"the coordinator at {coordinator} cannot be reached in {timeout} s: {error} "
                    "(--coordinator, --connect_timeout)"
                ) from error
            time.sleep(0.2)


def _initialize(start: Start) -> bool:
    """Whether there are other processes, or a cluster that could have some."""
    limits = {
        "initialization_timeout": start.connect_timeout,
        "heartbeat_timeout_seconds": start.heartbeat_timeout,
        "shutdown_timeout_seconds": _SHUTDOWN_TIMEOUT,
    }
    try:
        if start.coordinator:
            jax.distributed.initialize(
                start.coordinator,
                start.num_processes,
                start.process_id,
                cluster_detection_method="deactivate",
                **limits,
            )
            return True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # In a pod that runs alone nothing is amiss.
            jax.distributed.initialize(**limits)
        return True
    except (ValueError, RuntimeError) as error:
        if start.coordinator or "coordinator_address should be defined" not in str(error):
            raise ValueError(f"the processes cannot be connected: {error}") from error
    if "JOB_COMPLETION_INDEX" in os.environ:
        raise ValueError(
            "this pod is one of several of an indexed Job: give --coordinator, --num_processes and "
            "--process_id, or install jax[k8s]; or --num_processes=1 where each works by itself"
        )
    return False


def first_line(error: Exception) -> str:
    """What an error says, without the lines that follow."""
    return (str(error).strip() or repr(error)).splitlines()[0]

"""Connects the processes of a run, and ends all of them when one fails or is lost."""

import dataclasses
import io
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

import jax

from vdm.parallel.watchdog import Watchdog

# Seconds that the first process to finish waits for the last, which may write a report.
_SHUTDOWN_TIMEOUT = 24 * 3600
_MEMORY_HINT = (
    "--mode=plan with the same options compiles the steps of training and sampling, and prints a "
    "suggestion with which they fit, of config.training.accumulate, config.sample.batch_size, "
    "config.mesh.fsdp and config.model.remat; config.sample.reconstruction_micro_batch is for "
    "guided sampling, and config.eval.batch_size for evaluation"
)
RESUME_HINT = "the same command resumes from the newest checkpoint"


@dataclasses.dataclass(frozen=True)
class ConnectOptions:
    """How to connect the processes: the `vdm.main` flags of the same names. Timeouts in seconds.

    `jax.distributed` detects omitted options. num_processes=1 without a coordinator means a single
    process, even in a cluster.
    """

    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1
    connect_timeout: int = 30
    heartbeat_timeout: int = 30


class Preempted(Exception):
    """Preempted; the state is saved."""

    STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later


class CheckpointNotSaved(OSError):
    """A checkpoint cannot be written; earlier ones are kept."""


class Processes:
    """Connects this process to the other processes of a run, and ends it with them.

    Only process 0 prints and writes files, except that every process writes its checkpoint shards.
    """

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may not be of the locale
            sys.stdout.reconfigure(errors="backslashreplace")
        # A run that resumes with JAX_ENABLE_X64 would differ in the last bits.
        jax.config.update("jax_enable_x64", False)
        # JAX_THREEFRY_PARTITIONABLE=0 would change all noise of a seed.
        jax.config.update("jax_threefry_partitionable", True)
        self._watchdog: Watchdog | None = None
        self._index: int | None = None  # index of this process; None if it is the only one

    def connect(self, options: ConnectOptions, *, preemptible: bool) -> None:
        """Connects the processes; must be called before the first use of a device.

        `jax.distributed` detects TPU pods, Slurm, Kubernetes and Open MPI. Without a cluster and
        options, this process is the only one. A `preemptible` run must call
        `PreemptionNotice.reached`; any other run ends immediately at SIGTERM.

        Raises:
          ValueError: an option is invalid, the processes cannot connect, or JAX has no devices.
        """
        _check(options)
        if options.num_processes != 1 or options.coordinator:
            self._connect(options, preemptible)
        check_devices()

    def _connect(self, options: ConnectOptions, preemptible: bool) -> None:
        jax.config.update("jax_enable_preemption_service", preemptible)
        where = f" at {options.coordinator}" if options.coordinator else ""
        self._watchdog = Watchdog()
        self._watchdog.set_messages(
            if_aborted=f"not all processes connected{where} in {options.connect_timeout} s "
            "(--connect_timeout)",
            if_killed=f"killed while waiting for the other processes{where}",
        )
        if options.coordinator and options.process_id > 0:
            _wait_for_coordinator(options.coordinator, options.connect_timeout)
        elif options.coordinator:
            _check_port_is_free(options.coordinator)
        if not _initialize(options):
            self._stop_watchdog()
            return
        # For collectives between CPUs; accelerators have their own.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        self._index = jax.process_index()
        name = f"process {self._index} of {jax.process_count()}"
        self._watchdog.set_messages(
            if_aborted=f"{name} ends because another process was lost: it died, or sent no "
            f"heartbeat for {options.heartbeat_timeout} s (the lines above name it); {RESUME_HINT}",
            if_killed=f"{name} was killed, by a signal or for lack of memory; {RESUME_HINT}",
        )
        if self._index:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open until the process ends

    def run(self, work: Callable[[], None]) -> None:
        """Calls `work`, waits for the other processes, and converts exceptions to exit statuses.

        Exits with 75 after a preemption, 130 after Ctrl-C, 141 if the output was closed, and 1
        after an error, with a one-line message last.
        """
        try:
            work()
            self.finish()
        except KeyboardInterrupt:
            self.interrupt()
        except Preempted as notice:
            self._exit("" if self._index else str(notice), Preempted.STATUS)
        except CheckpointNotSaved as error:  # exits now: Orbax's threads would print more errors
            self._fail_if_lost(error)
            self._exit(self._error(str(error)), 1, at_once=True)
        except BrokenPipeError:  # nobody reads the output any more
            self._exit("", 128 + signal.SIGPIPE)
        except (ArithmeticError, OSError) as error:
            self.fail(str(error), 1)
        except Exception as error:
            if is_out_of_memory(error):
                self.fail(f"out of memory: {first_line(error)}. {_MEMORY_HINT}", 1)
            self._fail_if_lost(error)
            if _is_unreadable_video(error):  # a file that was moved or replaced since the start
                self.fail(str(error), 1)
            traceback.print_exc()
            self.fail(f"{type(error).__name__}: {error}", 1)

    def fail(self, message: str, status: int) -> NoReturn:
        """Prints an error message and exits, which also ends the other processes."""
        self._exit(self._error(message), status)

    def interrupt(self) -> NoReturn:
        """Exits after Ctrl-C, also while other threads compile: Python would wait or crash."""
        self._exit(self._error("interrupted"), 130, at_once=True)

    def finish(self) -> None:
        """Waits until all processes have finished."""
        if self._watchdog is not None:
            jax.distributed.shutdown()
            self._stop_watchdog()

    def _stop_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None

    def _error(self, message: str) -> str:
        name = "" if self._index is None else f"process {self._index}: "
        return f"error: {name}{message}"

    def _exit(self, message: str, status: int, *, at_once: bool = False) -> NoReturn:
        """Prints a message and exits; a single process first finishes its background writes."""
        try:
            sys.stdout.flush()
            if message:
                print(message, file=sys.stderr, flush=True)
        except BrokenPipeError:  # the reader is gone, and flushing at exit would fail again
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        if self._index is None and not at_once:
            self._stop_watchdog()
            sys.exit(status)
        if self._index == 0:
            if self._watchdog is not None and message:
                # JAX may abort this process while it waits, and print a C++ stack afterwards.
                again = message.removeprefix("error: ")
                self._watchdog.set_messages(if_aborted=again, if_killed=again)
            time.sleep(2)  # Lets the others print, before the coordinator's exit aborts them.
        self._stop_watchdog()
        os._exit(status)  # sys.exit would wait for the other processes.

    def _fail_if_lost(self, error: Exception) -> None:
        """Exits with an error if a collective operation failed because another process was lost."""
        words = ("Gloo", "gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")
        if self._index is not None and any(word in str(error) for word in words):
            self.fail(f"another process was lost: {first_line(error)}; {RESUME_HINT}", 1)


def check_devices() -> None:
    """Raises ValueError if JAX has no devices, for example with JAX_PLATFORMS=cuda and no GPU."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = f": {first_line(error)}" if str(error) else ""
        raise ValueError(f"JAX has no devices of JAX_PLATFORMS={platforms!r}{reason}") from error


def _check(options: ConnectOptions) -> None:
    if options.coordinator:
        host, _, port = options.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"--coordinator is {options.coordinator!r}, and must be HOST:PORT")
        if not 0 <= options.process_id < options.num_processes:
            raise ValueError(
                f"--process_id is {options.process_id} and --num_processes is "
                f"{options.num_processes}: with --coordinator, the first must be at least 0 and "
                "less than the second"
            )
    elif options.process_id >= 0 or options.num_processes > 1:
        raise ValueError("--num_processes and --process_id need --coordinator=HOST:PORT")
    for name in ("connect_timeout", "heartbeat_timeout"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}, and must be at least 1")


def _wait_for_coordinator(coordinator: str, timeout: float) -> None:
    """Waits until process 0 listens, since `jax.distributed.initialize` would abort."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            remaining = max(0.1, end - time.monotonic())
            socket.create_connection((host.strip("[]"), int(port)), timeout=remaining).close()
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise ValueError(
                    f"the coordinator at {coordinator} cannot be reached in {timeout} s: {error} "
                    "(--coordinator, --connect_timeout)"
                ) from error
            time.sleep(0.2)


def _check_port_is_free(coordinator: str) -> None:
    """Raises ValueError if process 0 cannot listen on the port, since JAX would crash."""
    port = int(coordinator.rpartition(":")[2])
    with socket.socket(socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"process 0 cannot listen on port {port} of --coordinator={coordinator}: {error}"
            ) from error


def _initialize(options: ConnectOptions) -> bool:
    """Returns whether `jax.distributed` connected to a cluster, or to the given coordinator."""
    given = bool(options.coordinator)
    try:
        with warnings.catch_warnings():
            if not given:  # JAX warns in a pod that is not part of a JobSet.
                warnings.simplefilter("ignore")
            jax.distributed.initialize(
                options.coordinator or None,
                options.num_processes if given else None,
                options.process_id if given else None,
                cluster_detection_method="deactivate" if given else None,
                initialization_timeout=options.connect_timeout,
                heartbeat_timeout_seconds=options.heartbeat_timeout,
                shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
            )
        return True
    except (ValueError, RuntimeError) as error:
        if given or "coordinator_address should be defined" not in str(error):
            raise ValueError(f"the processes cannot connect: {error}") from error
    if "JOB_COMPLETION_INDEX" in os.environ:
        raise ValueError(
            "this pod is one of several of an indexed Job: give --coordinator, --num_processes and "
            "--process_id, or install jax[k8s]; or give --num_processes=1 if each pod works alone"
        )
    return False


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error means that a device or the host is out of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _is_unreadable_video(error: Exception) -> bool:
    from vdm.video import UnreadableVideoError  # needs PyAV, which other errors do not

    return isinstance(error, UnreadableVideoError)


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return (str(error).strip() or repr(error)).splitlines()[0]

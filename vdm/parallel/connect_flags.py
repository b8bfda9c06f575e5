"""Command-line flags for runs with several processes."""

from absl import flags

from vdm.parallel.processes import ConnectOptions

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "HOST:PORT of process 0, for a run of several processes. Detected on TPU pods, under Slurm, "
    "Open MPI, and Kubernetes with jax[k8s].",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", 0, "Number of processes, with --coordinator; 1 alone: no cluster detection."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Process index from 0, with --coordinator.")
_CONNECT_TIMEOUT = flags.DEFINE_integer(
    "connect_timeout", 30, "Seconds until all processes must have connected."
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    "heartbeat_timeout",
    30,
    "Seconds without a heartbeat after which a process counts as lost and all others exit.",
)


def connect_options() -> ConnectOptions:
    """Returns the connection options given by the flags."""
    return ConnectOptions(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        _CONNECT_TIMEOUT.value,
        _HEARTBEAT_TIMEOUT.value,
    )

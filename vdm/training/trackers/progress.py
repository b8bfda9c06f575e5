"""Measures training speed and memory, and formats the progress line."""

import resource
import sys
import time

import jax


class StepTimer:
    """Measures steps per second and the time spent waiting for input."""

    def __init__(self, step: int, seconds_waited: float) -> None:
        """Starts at a step; arguments: see `rates`."""
        self.restart(step, seconds_waited)

    def restart(self, step: int, seconds_waited: float) -> None:
        """Restarts at a step, to exclude compilation and sampling; arguments: see `rates`."""
        self._step, self._time, self._waited = step, time.monotonic(), seconds_waited

    def rates(self, step: int, seconds_waited: float) -> dict[str, float]:
        """Returns the rates since the last call of any method; empty if no step was taken.

        seconds_waited is the run's total time waiting for batches. The rates are 'steps_per_second'
        and 'input_wait_share', the fraction of time that devices were idle because the next batch
        was not ready.
        """
        steps, waited = step - self._step, seconds_waited - self._waited
        seconds = time.monotonic() - self._time
        self.restart(step, seconds_waited)
        if not steps:
            return {}
        return {"steps_per_second": steps / seconds, "input_wait_share": waited / seconds}


def memory() -> dict[str, float]:
    """Returns the peak memory so far in bytes, of the devices or else of this process.

    The key is 'device_peak_bytes', the maximum over this process's devices, if the platform reports
    it; else (on CPUs) 'process_peak_bytes', this process's resident memory.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("peak_bytes_in_use" in device for device in stats):
        return {"device_peak_bytes": max(device["peak_bytes_in_use"] for device in stats)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"process_peak_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def progress_line(step: int, num_steps: int, loss: float, steps_per_second: float | None) -> str:
    """Returns one line for the terminal, with the remaining time if the speed is known."""
    line = f"step {step:>{len(str(num_steps))}}/{num_steps}  loss {loss:.4f}"
    if steps_per_second:
        minutes, seconds = divmod(round((num_steps - step) / steps_per_second), 60)
        hours, minutes = divmod(minutes, 60)
        line += f"  {steps_per_second:.2f} steps/s  {hours}:{minutes:02}:{seconds:02} left"
    return line

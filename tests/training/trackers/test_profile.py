"""Which steps are profiled; tests/training/test_watching.py reads a trace."""

import jax.numpy as jnp
import pytest

from vdm.configuration.stored import save_run_config
from vdm.preflight import check
from vdm.training.trackers.profile import ProfilerWindow


@pytest.fixture
def trace(monkeypatch):
    """Records when the profiler starts and stops, in place of tracing."""
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
    return calls


@pytest.mark.parametrize(
    ("steps", "first_step", "expected"),
    [
        ((), 0, []),
        ((1, 2), 0, [2]),  # step 1 compiles
        ((2, 2), 0, [2]),
        ((3, 5), 0, [3, 4, 5]),
        ((3, 5), 3, [5]),  # step 4 compiles
        ((3, 5), 4, []),
        ((3, 5), 5, []),  # traced before the resume
        ((9, 12), 0, [9, 10]),  # until the last step
    ],
)
def test_the_first_step_since_the_start_or_the_resume_is_not_traced(
    steps, first_step, expected, trace, tmp_path, capsys
):
    traced = []
    with ProfilerWindow(tmp_path, steps, first_step, enabled=True) as profiler:
        for step in range(first_step + 1, 11):
            profiler.start(step, jnp.zeros(()))
            if trace == ["start"]:
                traced.append(step)
            profiler.stop(step, jnp.zeros(()), early=False)
    assert traced == expected
    assert trace == (["start", "stop"] if expected else [])
    printed = capsys.readouterr().out
    if steps and steps[1] == first_step + 1:
        assert "(3, 5), of which step 5 is not traced: the first step since the" in printed
    else:
        assert not printed


def test_other_processes_trace_and_print_nothing(trace, tmp_path, capsys):
    with ProfilerWindow(tmp_path, (1, 1), 0, enabled=False) as profiler:
        profiler.start(1, jnp.zeros(()))
    assert not trace and not capsys.readouterr().out


def test_a_run_that_resumes_is_not_refused(tiny_config, tmp_path):
    tiny_config.training.profile_steps = (1, 1)
    with pytest.raises(ValueError, match=r"config\.training\.profile_steps is \(1, 1\), and must"):
        check(tiny_config, tmp_path, "train")
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "3" / "_CHECKPOINT_METADATA").write_text("{}")
    save_run_config(tmp_path, tiny_config)
    check(tiny_config, tmp_path, "train")

"""Plans of the tiny configuration on two devices, against sizes derived from its shapes."""

import dataclasses
import itertools
import json
import math
from functools import partial

import jax
import numpy as np
import pytest

from vdm.build import init_params
from vdm.parallel.mesh import make_mesh
from vdm.planning import report
from vdm.planning.compile import Compiled, Memory, _parse_refusal
from vdm.planning.flops import count_flops
from vdm.planning.hardware.peaks import HARDWARE
from vdm.planning.plan import Target, describe, make_plan
from vdm.planning.roofline import Efficiencies
from vdm.planning.steps import make_step
from vdm.planning.suggest import find_change
from vdm.preflight import check

FLOAT = 4  # bytes


@pytest.fixture(scope="module")
def tiny(tiny_config_of_module):
    config = tiny_config_of_module
    config.training.optimizer = "adam"
    config.plan.hardware = "h100"
    return config


def _plan(config, steps, output=None, **changes):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    config.plan.steps = steps
    check(config, None, "plan")
    lines = []
    return make_plan(config, output, lines.append), "\n".join(lines)


@pytest.fixture(scope="module")
def replicated(tiny, tmp_path_factory):
    output = tmp_path_factory.mktemp("plan") / "folder" / "plan.json"
    return *_plan(tiny, ("train", "sample", "guided"), output), output


def _state_bytes(parameters):
    return 4 * parameters * FLOAT  # parameters, their average and Adam's two moments


def _batch_bytes(config, videos):
    data = config.data
    frames = data.frames + data.num_images
    return videos * frames * data.resolution**2 * data.channels * FLOAT


def test_a_plan_for_other_hardware_than_the_attached_cpus_counts_all_of_attention(tiny):
    """In tiles, as on CPUs, the compiler counts one tile."""
    changes = {"data.resolution": 64, "model.attention_resolutions": (32,)}
    result, _ = _plan(tiny, ("sample",), **changes)
    step = result["steps"]["sample"]
    assert step["flops"] == pytest.approx(step["flops_as_written"], rel=0.2)


@pytest.mark.slow
def test_arguments_and_communication_of_data_parallel_training(tiny, replicated):
    result, _, _ = replicated
    train, parameters = result["steps"]["train"], result["parameters"]
    state, batch = _state_bytes(parameters), _batch_bytes(tiny, tiny.training.batch_size // 2)
    memory = train["memory"]
    assert 0 <= memory["argument_bytes"] - state - batch < 1000  # counters and sums
    assert memory["total_bytes"] == (
        memory["argument_bytes"]
        + memory["output_bytes"]
        - memory["aliased_bytes"]
        + memory["temporary_bytes"]
        + memory["code_bytes"]
    )
    reduced = train["collectives"]["all-reduce"]
    # Four frames read only a part of the tables of relative positions, and reduce that part.
    assert 0.97 * parameters * FLOAT < reduced["payload_bytes"] < parameters * FLOAT + 1000
    assert reduced["sent_bytes"] == pytest.approx(reduced["payload_bytes"])  # 2 (n - 1) / n


@pytest.mark.slow
def test_fsdp_halves_the_state_and_gathers_the_split_arrays(tiny, replicated):
    whole = replicated[0]["steps"]["train"]
    split = _plan(tiny, ("train",), **{"mesh.fsdp": 2})[0]["steps"]["train"]
    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(partial(init_params, tiny)))]
    # Vectors and arrays of fewer than 1,024 elements are replicated.
    halved = sum(math.prod(s) for s in shapes if len(s) > 1 and math.prod(s) >= 1024)
    saved = whole["memory"]["argument_bytes"] - split["memory"]["argument_bytes"]
    assert saved == _state_bytes(halved) // 2
    # Split arrays are gathered at least for the forward pass.
    assert split["collectives"]["all-gather"]["payload_bytes"] >= halved * FLOAT
    assert split["flops_as_written"] == whole["flops_as_written"]


@pytest.mark.slow
def test_compiler_counts_slightly_more_flops_than_products(replicated):
    for step in replicated[0]["steps"].values():
        assert 0.8 < step["flops"] / step["flops_as_written"] < 1.4


def test_accumulation_does_not_change_the_flops(tiny):
    counts = []
    for accumulate in (1, 2):
        config = tiny.copy_and_resolve_references()
        config.training.accumulate = accumulate
        step = make_step(config, make_mesh(config), "train")
        counts.append(count_flops(step.function.trace(*step.arguments).jaxpr))
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_guided_step_costs_an_additional_gradient(replicated):
    steps = replicated[0]["steps"]
    assert 1.8 < steps["guided"]["flops_as_written"] / steps["sample"]["flops_as_written"] < 2.2


@pytest.mark.slow
def test_prints_the_result(replicated):
    result, text, output = replicated
    assert json.loads(output.read_text())["steps"] == result["steps"]
    for line in (
        f"{result['parameters']:,} parameters on 2 device(s)",
        "train: training step of 4 videos, 2 per device",
        "guided: step of dpmpp_2m of 4 videos by reconstruction, 2 per device",
        "fits",
        "arithmetic at 50 % of 989.5 TFLOP/s",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"plan.steps": ("dream",)}, "config.plan.steps has 'dream'"),
        ({"plan.steps": ()}, r"config.plan.steps is \(\), and must have at least one of 'train'"),
        ({"plan.hardware": "abacus"}, "config.plan.hardware is 'abacus'"),
        ({"plan.devices": 3}, "config.plan.devices is 3, and must be at most 2"),
        ({"plan.topology": "v4:4x4x7"}, "config.plan.topology is 'v4:4x4x7'"),
        ({"plan.optimization_level": "O9"}, "config.plan.optimization_level is 'O9'"),
        ({"plan.link_efficiency": 0.0}, "config.plan.link_efficiency is 0.0"),
        ({"training.batch_size": 3}, "config.training.batch_size is 3"),
    ],
)
def test_rejects_invalid_options_before_compiling(tiny, changes, sentence):
    config = tiny.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=sentence):
        check(config, None, "plan")


def _compiled(arguments, temporaries, *, videos=8, name="train"):
    memory = Memory(arguments, 0, 0, temporaries, 0)
    return Compiled(name, "", videos, memory, written_flops=1.0, flops=1.0, memory_bytes=1.0)


def _fake_compiler(temporaries):
    """A compiler whose plans need arguments / fsdp + temporaries / micro-batches."""

    def compile_with(changes):
        return _compiled(
            800 // changes.get("mesh.fsdp", 1),
            temporaries[changes.get("model.remat", "none")]
            // changes.get("training.accumulate", 1),
        )

    return compile_with


@pytest.mark.parametrize(
    ("device_memory", "videos", "expected"),
    [
        # 800 of arguments and 600 of temporaries; 2 videos per device or 1.
        (1200, 8, [{"training.accumulate": 2}]),
        (1200, 4, [{"mesh.fsdp": 2}]),
        (500, 4, [{"model.remat": "activations"}, {"model.remat": "activations", "mesh.fsdp": 4}]),
        (310, 4, [{"model.remat": "activations"}, {"model.remat": "blocks"},
                  {"model.remat": "blocks", "mesh.fsdp": 4}]),
        (100, 4, [{"model.remat": "activations"}, {"model.remat": "blocks"}]),
    ],
)  # fmt: skip
def test_finds_the_cheapest_change_that_fits(tiny, device_memory, videos, expected):
    compile_with = _fake_compiler({"none": 600, "activations": 300, "blocks": 100})
    trials = list(
        find_change(
            tiny,
            dataclasses.replace(compile_with({}), batch_size=videos),
            num_devices=4,
            device_memory=device_memory,
            compile_with=compile_with,
        )
    )
    assert [trial.changes for trial in trials] == expected
    assert trials[-1].compiled.fits(device_memory) == (device_memory > 100)


def test_compiles_at_most_the_allowed_number_of_changes(tiny):
    compiled_changes = []

    def compile_with(changes):
        compiled_changes.append(changes)
        return _compiled(800, 600)

    trials = find_change(
        tiny, _compiled(800, 600), num_devices=4, device_memory=10, compile_with=compile_with
    )
    trials = list(itertools.islice(trials, 1))
    assert [trial.changes for trial in trials] == [{"model.remat": "activations"}]
    assert compiled_changes == [{"model.remat": "activations"}]


def test_reads_the_memory_of_a_refusal():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 41.50G of 30.75G hbm. "
        "Exceeded hbm capacity by 10.75G."
    )
    memory = _parse_refusal(message, arguments=2**34)
    assert memory.total == 41.5 * 2**30 and memory.capacity == 30.75 * 2**30
    earlier_message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (16.40G) exceeds available HBM (15.75G)."
    )
    earlier = _parse_refusal(earlier_message, arguments=2**31)
    assert earlier.total == round(16.4 * 2**30) + 2**31
    assert earlier.capacity == 15.75 * 2**30
    assert _parse_refusal("INTERNAL: something else", 0) is None
    target = Target(HARDWARE["v4"], 4, Efficiencies(0.5, 0.8, 0.8), link_share=1.0)
    step = describe(dataclasses.replace(_compiled(0, 0), memory=memory), target)
    assert not step["fits"] and "seconds" not in step
    assert "41.50 of 30.75 GiB: does not fit" in report.step_lines("train", step)


def test_describes_an_unattached_slice():
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install 'jax[tpu]'")
    from vdm.planning.hardware.topology import devices_of

    devices = devices_of("v4:4x4x8")
    assert len(devices) == 128 and devices[0].device_kind == "TPU v4"  # one per chip
    assert np.unique([device.id for device in devices]).size == 128
    assert jax.devices()[0].platform == "cpu"

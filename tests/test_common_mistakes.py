"""What new users do wrong: each message names the mistake, and says what to do."""

import jax
import numpy as np
import pytest
from absl import flags
from etils import epath

from tests.compiled import init_params
from vdm.configuration.resolve import resolve, split_overrides
from vdm.configuration.stored import save_run_config
from vdm.exported import export
from vdm.files import as_path
from vdm.parallel.processes import first_line
from vdm.preflight import check

DIGITS, SHIPPED = "--config=moving_digits", "--config.checkpoint=moving_digits"
FOLDER, RUN = "--config=folder", "--workdir={tmp}/run"
TEXT = ("--config.data.condition=text", "--config.model.text_width=8")
LABELS = ("--config.data.condition=label", "--config.model.num_classes=3")
UNCONDITIONAL = ("--config.data.condition=none", "--config.model.num_classes=0")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of users: without videos, and with short, plain and labelled videos."""
    root = tmp_path_factory.mktemp("users")
    for name in ("empty", "texts", "short", "videos", "labelled/a", "labelled/b"):
        (root / name).mkdir(parents=True)
    (root / "texts" / "notes.txt").write_text("no video")
    for name, frames in (("short", 8), ("videos", 16), ("labelled/a", 16), ("labelled/b", 16)):
        for index in range(2):
            video = np.zeros((frames, 64, 64, 3), np.uint8)
            np.savez(root / name / f"{index}.npz", video=video)
    return root


def message_of(*arguments):
    """Returns the error message of a command of vdm.main, before any work."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["tests"])
    rest, overrides = split_overrides(arguments)
    given = dict(argument.removeprefix("--").split("=", 1) for argument in rest)
    workdir = as_path(given["workdir"]) if "workdir" in given else None
    try:
        config = resolve(given.get("config"), workdir, overrides)
        check(config, workdir, given.get("mode", "train"))
    except (ValueError, OSError) as error:  # those that vdm.main reports in one line
        return first_line(error)
    pytest.fail(f"there is no error: {arguments}")


MISTAKES = {
    "a misspelled configuration": (
        ("--config=moving_digit", RUN),
        "no configuration file moving_digit; did you mean moving_digits?",
    ),
    "no configuration": (
        (RUN,),
        "holds no run: check --workdir, or start a run with --config=NAME",
    ),
    "no workdir": (
        (DIGITS,),
        "--workdir is required for --mode=train: the folder of a run, or a new one to train",
    ),
    "a misspelled field": (
        (DIGITS, RUN, "--config.training.batchsize=4"),
        "config.training.batchsize does not exist: did you mean config.training.batch_size?",
    ),
    "a value of another type": (
        (DIGITS, RUN, "--config.training.batch_size=large"),
        "config.training.batch_size is 'large', and must be an integer",
    ),
    "sampling before training": (
        (DIGITS, RUN, "--mode=sample"),
        "train first, or give --config.checkpoint=FILE.safetensors",
    ),
    "a mistyped checkpoint": (
        (RUN, "--mode=sample", "--config.checkpoint=gone.safetensors"),
        "must be an exported .safetensors file, hf://OWNER/NAME on the Hugging Face Hub, or one of "
        "moving_digits",
    ),
    "training from an exported file": (
        (DIGITS, RUN, SHIPPED),
        "must be empty for --mode=train: --config.training.init_from=FILE starts from its weights",
    ),
    "a checkpoint of another configuration": (
        (DIGITS, RUN, "--mode=sample", SHIPPED, "--config.model.base_channels=32"),
        "its config.model.base_channels is 16, and this configuration has 32. Without --config",
    ),
    "a resolution that the network cannot halve": (
        (DIGITS, RUN, "--config.data.resolution=10"),
        "config.data.resolution is 10, and must be divisible by 4, model.patch_size times the "
        "stride of model.channel_multipliers, such as 8",
    ),
    "a resolution at which the network would have no attention": (
        (FOLDER, RUN, "--config.data.path={tmp}/videos", "--config.data.resolution=96"),
        "config.model.attention_resolutions is (8, 16, 32), and must be empty, or have one of 96, "
        "48, 24, 12, the resolutions of the network, such as (24, 12): attention alone connects",
    ),
    "heads that do not divide the channels": (
        (DIGITS, RUN, "--config.model.head_dim=24"),
        "config.model.head_dim is 24, and must be a divisor of 32",
    ),
    "a batch that does not divide over the devices": (
        (DIGITS, RUN, "--config.training.batch_size=3"),
        "config.training.batch_size is 3, and must be a multiple of the 2 devices",
    ),
    "negative steps": (
        (DIGITS, RUN, "--config.training.num_steps=-5"),
        "config.training.num_steps is -5, and must be at least 1",
    ),
    "fewer steps than the warm-up": (
        (DIGITS, RUN, "--config.training.num_steps=10"),
        "config.training.warmup_steps is 100, and must be at most config.training.num_steps, 10",
    ),
    "fewer steps than the decay": (
        (DIGITS, RUN, "--config.training.num_steps=500"),
        "config.training.decay_steps is 1200, and must be at most 400, config.training.num_steps "
        "less config.training.warmup_steps",
    ),
    "a profile of the step that compiles": (
        (DIGITS, RUN, "--config.training.profile_steps=(1, 1)"),
        "config.training.profile_steps is (1, 1), and must be empty, or have a step from 2 to "
        "config.training.num_steps, 3500: step 1 compiles, and is not traced",
    ),
    "a profile of steps after the last": (
        (DIGITS, RUN, "--config.training.profile_steps=(3501, 3502)"),
        "config.training.profile_steps is (3501, 3502), and must be empty, or have a step from 2",
    ),
    "an average that never changes": (
        (DIGITS, RUN, "--config.training.ema_decay=1"),
        "config.training.ema_decay is 1.0, and must be at least 0 and less than 1",
    ),
    "own videos for a data set without files": (
        (DIGITS, RUN, "--config.data.path={tmp}/videos"),
        "videos', and must be empty for 'moving_digits': --config=folder trains on the videos of a",
    ),
    "a folder without a path": (
        (FOLDER, RUN),
        "config.data.path is empty, and must be a folder of videos",
    ),
    "a mistyped folder": (
        (FOLDER, RUN, "--config.data.path={tmp}/vidoes"),
        "vidoes', and must be a folder of videos: it does not exist",
    ),
    "an empty folder": (
        (FOLDER, RUN, "--config.data.path={tmp}/empty"),
        "has no video that can be used; docs/data.md lists the kinds of files that are read",
    ),
    "a folder of other files": (
        (FOLDER, RUN, "--config.data.path={tmp}/texts"),
        "notes.txt is no video or image by its name (1 left out, listed in",
    ),
    "a workdir among the training videos": (
        (FOLDER, "--workdir={tmp}/videos/runs/run", "--config.data.path={tmp}/videos/"),
        "--workdir is {tmp}/videos/runs/run, and must be outside of config.data.path, "
        "{tmp}/videos/: its sample videos would become training videos",
    ),
    "clips that are longer than the videos": (
        (FOLDER, RUN, "--config.data.path={tmp}/short"),
        "has 8 frames, and 16 are needed (2 left out, listed in {tmp}/short/video_index.txt); the "
        "longest has 8 frames, which config.data.frames has to fit",
    ),
    "text without captions": (
        (FOLDER, RUN, "--config.data.path={tmp}/videos", *TEXT),
        "manifest.csv in the folder, with the columns file and caption, adds captions",
    ),
    "classes without labels": (
        (FOLDER, RUN, "--config.data.path={tmp}/videos", *LABELS),
        "sub-folders, or manifest.csv with the columns file and label, add labels",
    ),
    "another number of classes": (
        (FOLDER, RUN, "--config.data.path={tmp}/labelled", *LABELS),
        "config.model.num_classes is 3, and the videos of {tmp}/labelled have 2 classes: set",
    ),
    "colour for a data set of grey videos": (
        (DIGITS, RUN, "--config.data.channels=3"),
        "config.data.channels is 3, and must be 1 for 'moving_digits'",
    ),
    "two channels": (
        (FOLDER, RUN, "--config.data.path={tmp}/videos", "--config.data.channels=2"),
        "config.data.channels is 2, and must be 1 (grey) or 3 (RGB)",
    ),
    "a data set that is not prepared": (
        ("--config=bair", RUN, "--config.data.tfds_dir={tmp}"),
        "prepare it with python -m vdm.data.prepare bair_robot_pushing_small",
    ),
    "a label for an unconditional model": (
        (DIGITS, RUN, "--mode=sample", *UNCONDITIONAL, "--config.sample.label=3"),
        "config.sample.label is 3, and must be -1, since the model has no labels: "
        "config.data.condition is 'none'",
    ),
    "a caption for a model of labels": (
        (RUN, "--mode=sample", SHIPPED, "--config.sample.caption=seven"),
        "must be empty, since the model has no captions: config.data.condition is 'label'",
    ),
    "guidance of an unconditional model": (
        (DIGITS, RUN, *UNCONDITIONAL, "--config.sample.guidance_weight=3"),
        "config.sample.guidance_weight is 3.0, and must be 1 where config.data.condition is 'none'",
    ),
    "a label out of range": (
        (RUN, "--mode=sample", SHIPPED, "--config.sample.label=10"),
        "config.sample.label is 10, and must be less than config.model.num_classes, 10",
    ),
    "an unknown sampler": (
        (RUN, "--mode=sample", SHIPPED, "--config.sample.sampler=ddpm"),
        "config.sample.sampler is 'ddpm', and must be one of 'ancestral', 'langevin', 'ddim'",
    ),
    "a workdir as the low-resolution model of a cascade": (
        (
            *(RUN, "--mode=sample", SHIPPED, "--config.sample.task=cascade"),
            "--config.cascade.base_checkpoint={tmp}/videos",
        ),
        "config.cascade.base_checkpoint is '{tmp}/videos', and there is no file {tmp}/videos: it "
        "must be an exported .safetensors file",
    ),
    "a mistyped model of key frames": (
        (
            *(RUN, "--mode=sample", SHIPPED, "--config.sample.task=extend"),
            *("--config.extend.method=key_frames", "--config.extend.key_frame_checkpoint=gone"),
        ),
        "config.extend.key_frame_checkpoint is 'gone', and there is no file gone: it must be an",
    ),
    "a prediction without frames to predict": (
        (
            *(RUN, "--mode=sample", SHIPPED, "--config.sample.task=predict"),
            "--config.predict.num_given=16",
        ),
        "config.predict.num_given is 16, and must be 1 to 15",
    ),
    "a mistyped video to predict": (
        (
            *(RUN, "--mode=sample", SHIPPED, "--config.sample.task=predict"),
            "--config.sample.observed=gone.mp4",
        ),
        "config.sample.observed is 'gone.mp4', and must be a video file, a .npz file or a folder",
    ),
    "a video to extend, of which no frame is observed": (
        (
            *(RUN, "--mode=sample", SHIPPED, "--config.sample.task=extend"),
            "--config.sample.observed={tmp}/videos",
        ),
        "config.extend.num_given is 0, and must be 1 to 16",
    ),
    "an extension to the frames that are observed": (
        (
            *(RUN, "--mode=sample", SHIPPED, "--config.sample.task=extend"),
            *("--config.sample.observed={tmp}/videos", "--config.extend.num_given=16"),
            "--config.extend.num_frames=16",
        ),
        "config.extend.num_frames is 16, and must be more than 16, the observed frames (config.ext",
    ),
    "a video without a task that observes it": (
        (RUN, "--mode=sample", SHIPPED, "--config.sample.observed={tmp}/videos"),
        "must be empty for config.sample.task 'generate', which observes no videos",
    ),
    "the protocol of another data set": (
        (RUN, "--mode=eval", SHIPPED, "--config.eval.protocol=bair"),
        "needs data.resolution 64, and this configuration has 12; fvd, fvd_half_pixel,",
    ),
    "the protocol of moving digits for other videos": (
        (
            *(FOLDER, RUN, "--mode=eval", "--config.data.path={tmp}/videos"),
            "--config.eval.protocol=moving_digits",
        ),
        "videos of any data set have --config.eval.protocol=fvd",
    ),
    "repeats of a protocol that has one set of samples": (
        (RUN, "--mode=eval", SHIPPED, "--config.eval.repeats=3"),
        "config.eval.repeats is 3, and must be 1 for config.eval.protocol 'moving_digits'",
    ),
    "repeats beyond the last seed": (
        (
            *(RUN, "--mode=eval", SHIPPED, "--config.eval.protocol=similarity"),
            *("--config.sample.task=predict", "--config.sample.seed=4294967294"),
            "--config.eval.repeats=3",
        ),
        "config.sample.seed is 4294967294, and must be at most 4294967293: config.eval.repeats is",
    ),
    "shards that do not divide the devices": (
        (DIGITS, RUN, "--config.mesh.fsdp=3"),
        "config.mesh.fsdp is 3, and must be a divisor of the 2 devices",
    ),
    "a workdir that cannot be created": (
        (DIGITS, "--workdir=/proc/run"),
        "workdir /proc/run cannot be written",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_says_what_to_do(mistake, folders):
    arguments, expected = MISTAKES[mistake]
    found = message_of(*(argument.replace("{tmp}", str(folders)) for argument in arguments))
    assert expected.replace("{tmp}", str(folders)) in found
    assert not (folders / "run").exists()


def test_a_workdir_may_be_beside_and_above_the_training_videos(folders, tiny_config, monkeypatch):
    (folders / "link").symlink_to("videos")
    tiny_config.data.update(name="folder", path="videos", condition="none", channels=3)
    tiny_config.data.update(num_images=0)
    tiny_config.model.num_classes = 0
    monkeypatch.chdir(folders)
    for mode in ("train", "rehearse"):
        for inside in ("videos/run", "link/run", "videos", "./texts/../videos/a/b"):
            with pytest.raises(ValueError, match=r"outside of config\.data\.path, videos: its"):
                check(tiny_config, as_path(inside), mode)
    for workdir in ("videos_run", ".", "texts"):
        check(tiny_config, as_path(workdir), "train")
    # The path in an exported file may be relative to another folder than the current one.
    for mode in ("sample", "eval", "export"):
        found = message_of(FOLDER, "--workdir=run", "--config.data.path=.", f"--mode={mode}")
        assert "outside" not in found


def test_only_previews_of_a_training_need_held_out_videos(
    folders, tiny_config, tmp_path, monkeypatch
):
    from vdm import main

    data = {"name": "folder", "path": str(folders / "labelled"), "test_share": 0.0}
    tiny_config.data.update(**data, condition="label", channels=3, num_images=0)
    tiny_config.model.num_classes = 2
    tiny_config.training.sample_every = 10
    with pytest.raises(ValueError, match="is in the split 'test'"):
        check(tiny_config, tmp_path / "run", "train")
    tiny_config.training.sample_every = 0
    check(tiny_config, tmp_path / "run", "train")
    previews = []
    monkeypatch.setattr(
        "vdm.training.loop.train", lambda *_, preview, **__: previews.append(preview)
    )
    main.train(tiny_config, tmp_path / "run")
    assert previews == [None]


def test_another_model_in_the_workdir_of_a_run(tiny_config, tmp_path):
    save_run_config(tmp_path, tiny_config)
    checkpoint = tmp_path / "checkpoints" / "3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "_CHECKPOINT_METADATA").write_text("{}")
    found = message_of(DIGITS, f"--workdir={tmp_path}")
    assert "was trained with other settings" in found
    assert found.endswith("Resume it without --config, or choose another --workdir")
    found = message_of(f"--workdir={tmp_path}", "--mode=sample", "--config.step=7")
    assert "7" in found and "3" in found


@pytest.mark.usefixtures("quick_compilation_once")
def test_a_second_export_names_the_replaced_file(tiny_config, tmp_path, monkeypatch, capsys):
    from vdm import main

    params = jax.tree.map(np.asarray, init_params(tiny_config))
    monkeypatch.setattr("vdm.training.checkpoints.load_ema", lambda *_: (params, 9))
    main.export(tiny_config, epath.Path(tmp_path))
    assert "replaces" not in capsys.readouterr().out
    export(tmp_path / "model.safetensors", params, tiny_config, 5)
    main.export(tiny_config, epath.Path(tmp_path))
    assert "replaces the file of step 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("metrics.jsonl/", "train", "metrics.jsonl is a folder, and must be a file"),
        ("train.lock/", "train", "train.lock is a folder, and must be a file"),
        ("previews", "train", "previews is a file or a dangling link, and must be a folder"),
        ("tensorboard", "train", "tensorboard is a file or a dangling link, and must be a folder"),
        ("samples", "sample", "samples is a file or a dangling link, and must be a folder"),
        ("eval", "eval", "eval is a file or a dangling link, and must be a folder"),
        ("model.safetensors/", "export", "model.safetensors is a folder, and must be a file"),
        ("plan.json/", "plan", "plan.json is a folder, and must be a file"),
    ],
)
def test_what_is_in_the_way_of_an_output_is_named_before_any_work(name, mode, expected, tmp_path):
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.symlink_to("gone")
    weights = () if mode in ("train", "export", "plan") else (SHIPPED,)
    found = message_of(DIGITS, f"--workdir={tmp_path}", f"--mode={mode}", *weights)
    assert found == f"{tmp_path}/{expected}"

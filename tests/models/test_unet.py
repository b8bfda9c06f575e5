"""The network as a whole: what may and what may not influence its output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vdm.build import empty_condition
from vdm.config import default_config
from vdm.models.blocks import ResidualBlock
from vdm.models.unet import SpaceTimeUNet, depth_to_space, space_to_depth

pytestmark = pytest.mark.usefixtures("quick_compilation")

FIELDS = dict(default_config().model) | dict(
    base_channels=8,
    channel_multipliers=(1, 2),
    blocks_per_resolution=1,
    attention_resolutions=(2, 4),
    head_dim=8,
    embedding_dim=32,
    embedding_layers=2,
    max_relative_distance=16,
    dtype="float32",
)
FRAMES, IMAGES = 5, 4


def _latent(frames, batch=2, seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, frames, 4, 4, 1))


def _model_and_params(z, condition=None, num_images=0, **fields):
    """Random parameters: those of initialisation have zeros that would hide every influence."""
    model = SpaceTimeUNet(**FIELDS | fields)
    log_snr = jnp.zeros(len(z))
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), z, log_snr, condition, num_images=num_images)
    )
    generator = np.random.default_rng(1)

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 16
        value = generator.normal(size=leaf.shape) / np.sqrt(fan_in)
        return jnp.array(value + (path[-1].key == "scale"), leaf.dtype)

    return model, jax.tree.map_with_path(draw, shapes)


LOG_SNR = jnp.array([-2.0, 3.0])


def test_permuting_images_permutes_their_outputs_and_changes_no_video_frame():
    z = _latent(FRAMES + IMAGES)
    model, variables = _model_and_params(z, num_images=IMAGES)
    apply = jax.jit(lambda z: model.apply(variables, z, LOG_SNR, num_images=IMAGES))
    order = jnp.array([2, 0, 3, 1])
    permuted = jnp.concatenate([z[:, :FRAMES], z[:, FRAMES:][:, order]], axis=1)
    before, after = np.asarray(apply(z)), np.asarray(apply(permuted))
    np.testing.assert_array_equal(after[:, :FRAMES], before[:, :FRAMES])
    np.testing.assert_array_equal(after[:, FRAMES:], before[:, FRAMES:][:, order])


def test_images_and_video_do_not_see_each_other():
    z = _latent(FRAMES + IMAGES)
    model, variables = _model_and_params(z, num_images=IMAGES)
    apply = jax.jit(lambda z: model.apply(variables, z, LOG_SNR, num_images=IMAGES))
    together = apply(z)
    other_images = apply(z.at[:, FRAMES:].set(_latent(IMAGES, seed=5)))
    np.testing.assert_array_equal(other_images[:, :FRAMES], together[:, :FRAMES])
    other_video = apply(z.at[:, :FRAMES].set(_latent(FRAMES, seed=6)))
    np.testing.assert_array_equal(other_video[:, FRAMES:], together[:, FRAMES:])
    video_alone = jax.jit(lambda z: model.apply(variables, z, LOG_SNR))(z[:, :FRAMES])
    np.testing.assert_allclose(video_alone, together[:, :FRAMES], atol=1e-4)


def test_no_absolute_time_is_known_but_relative_time_is():
    z = _latent(FRAMES)
    model, variables = _model_and_params(z)
    apply = jax.jit(lambda z, p: model.apply(variables, z, LOG_SNR, frame_positions=p))
    positions = jnp.arange(FRAMES)
    as_they_are = apply(z, positions)
    np.testing.assert_array_equal(apply(z, positions + 1000), as_they_are)
    order = jnp.array([3, 1, 4, 0, 2])
    relabelled = apply(z[:, order], positions[order])
    np.testing.assert_allclose(relabelled, as_they_are[:, order], atol=1e-4)
    assert np.abs(apply(z[:, order], positions) - as_they_are[:, order]).max() > 1e-2


def test_every_frame_of_a_video_sees_every_other():
    z = _latent(FRAMES, batch=1)
    model, variables = _model_and_params(_latent(FRAMES))
    apply = jax.jit(lambda z: model.apply(variables, z, LOG_SNR[:1]))
    before = apply(z)
    for frame in range(FRAMES):
        changed = np.abs(apply(z.at[:, frame].add(1.0)) - before).max(axis=(0, 2, 3, 4))
        assert (changed > 1e-4).all(), frame


@pytest.mark.parametrize("kind", ["label", "text"])
def test_conditions_reach_what_they_describe_and_nothing_else(kind):
    z = _latent(FRAMES + IMAGES)
    fields = {"num_classes": 10} if kind == "label" else {"text_width": 6}
    if kind == "label":
        condition = {"label": jnp.array([3, 4]), "image_label": jnp.arange(8).reshape(2, 4)}
        names, image_names = ["label"], ["image_label"]
        other = {"label": jnp.array([3, 5]), "image_label": jnp.arange(8).reshape(2, 4)[:, ::-1]}
    else:
        text = jax.random.normal(jax.random.key(3), (2, 3, 6))
        image_text = jax.random.normal(jax.random.key(4), (2, IMAGES, 3, 6))
        mask = jnp.array([[True, True, False], [True, False, False]])
        condition = {
            "text": text,
            "text_mask": mask,
            "image_text": image_text,
            "image_text_mask": jnp.ones((2, IMAGES, 3), bool),
        }
        names, image_names = ["text"], ["image_text"]
        other = {"text": text.at[1].mul(-1.0), "image_text": image_text[:, ::-1]}
    model, variables = _model_and_params(z, condition, IMAGES, **fields)
    apply = jax.jit(lambda z, c: model.apply(variables, z, LOG_SNR, c, num_images=IMAGES))
    before = apply(z, condition)

    after = apply(z, condition | {name: other[name] for name in names})
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(after[1, :FRAMES] - before[1, :FRAMES]).max() > 1e-3
    np.testing.assert_array_equal(after[1, FRAMES:], before[1, FRAMES:])

    after = apply(z, condition | {name: other[name] for name in image_names})
    np.testing.assert_array_equal(after[:, :FRAMES], before[:, :FRAMES])
    assert np.abs(after[:, FRAMES:] - before[:, FRAMES:]).max() > 1e-3

    if kind == "text":  # what is masked is not read, and an empty caption is no condition
        padded = condition | {"text": jnp.where(mask[..., None], text, 99.0)}
        np.testing.assert_array_equal(apply(z, padded), before)
        empty = condition | {"text_mask": jnp.zeros((2, 3), bool)}
        without = {name: value for name, value in condition.items() if "image" in name}
        np.testing.assert_allclose(apply(z, empty), apply(z, without), atol=1e-5)


def test_an_action_reaches_its_frame_and_all_later_ones_through_the_embedding():
    z = _latent(FRAMES + IMAGES)
    action = jax.random.normal(jax.random.key(3), (2, FRAMES, 2))
    condition = {"action": action, "action_mask": jnp.ones((2, FRAMES), bool)}
    # Without attention no frame knows of another.
    model, variables = _model_and_params(
        z, condition, IMAGES, action_width=2, attention_resolutions=()
    )
    apply = jax.jit(lambda z, c: model.apply(variables, z, LOG_SNR, c, num_images=IMAGES))
    before = apply(z, condition)
    for frame in range(FRAMES):
        after = apply(z, condition | {"action": action.at[1, frame].add(1.0)})
        changed = np.abs(after - before).max(axis=(2, 3, 4)) > 1e-4
        expected = np.zeros((2, FRAMES + IMAGES), bool)
        expected[1, frame:FRAMES] = True
        np.testing.assert_array_equal(changed, expected)

        mask = condition["action_mask"].at[1, frame].set(False)
        masked = apply(z, condition | {"action_mask": mask})
        assert (np.abs(masked - before).max(axis=(2, 3, 4)) > 1e-4).sum() == FRAMES - frame
        unread = {"action": action.at[1, frame].set(99.0), "action_mask": mask}
        np.testing.assert_array_equal(apply(z, unread), masked)


def test_masked_actions_are_no_actions():
    z = _latent(FRAMES)
    condition = {"action": jnp.ones((2, FRAMES, 3)), "action_mask": jnp.ones((2, FRAMES), bool)}
    model, variables = _model_and_params(z, condition, action_width=3)
    apply = jax.jit(lambda c: model.apply(variables, z, LOG_SNR, c))
    without = apply({})
    assert np.abs(apply(condition) - without).max() > 1e-2
    np.testing.assert_array_equal(apply(empty_condition(condition)), without)


def test_without_actions_there_are_no_parameters_for_them():
    z = _latent(FRAMES)
    names = {
        width: set(flatten_dict(_model_and_params(z, action_width=width)[1], sep="/"))
        for width in (0, 2)
    }
    assert {name.split("/", 1)[1] for name in names[2] - names[0]} == {
        "conditioning/action/kernel",
        "conditioning/action/bias",
    }


def test_all_actions_of_a_clip_are_dropped_together():
    batch = 200
    z, log_snr = jnp.zeros((batch, 3, 2, 2, 1)), jnp.zeros(batch)
    condition = {"action": jnp.ones((batch, 3, 2)), "action_mask": jnp.ones((batch, 3), bool)}
    model, variables = _model_and_params(
        z, condition, action_width=2, condition_dropout=0.25, attention_resolutions=()
    )
    out = jax.jit(
        lambda key: model.apply(variables, z, log_snr, condition, train=True, rngs={"dropout": key})
    )(jax.random.key(1))
    without = jax.jit(lambda: model.apply(variables, z, log_snr, {}))()
    is_dropped = np.abs(out - without).max(axis=(2, 3, 4)) < 1e-5
    assert (is_dropped.all(1) == is_dropped.any(1)).all()
    assert abs(is_dropped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / batch)


def test_condition_dropout_drops_whole_conditions_at_its_rate():
    batch = 400
    z, log_snr = jnp.zeros((batch, 1, 2, 2, 1)), jnp.zeros(batch)
    condition = {"label": jnp.full(batch, 7)}
    model, variables = _model_and_params(
        z, condition, num_classes=10, condition_dropout=0.25, attention_resolutions=()
    )
    train = jax.jit(
        lambda key: model.apply(variables, z, log_snr, condition, train=True, rngs={"dropout": key})
    )
    evaluate = jax.jit(lambda condition: model.apply(variables, z, log_snr, condition))
    out = train(jax.random.key(1))
    is_kept = np.abs(out - evaluate(condition)).max(axis=(1, 2, 3, 4)) < 1e-5
    is_dropped = np.abs(out - evaluate({})).max(axis=(1, 2, 3, 4)) < 1e-5
    assert (is_dropped ^ is_kept).all()
    assert abs(is_dropped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / batch)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["activations", "blocks"])
def test_rematerialisation_changes_memory_not_numbers(remat):
    z = _latent(FRAMES)
    model, variables = _model_and_params(z)
    remat = SpaceTimeUNet(**FIELDS | {"remat": remat})

    def gradient_and_text(module):
        loss = jax.jit(jax.grad(lambda v: jnp.square(module.apply(v, z, LOG_SNR)).mean()))
        return loss(variables), str(jax.make_jaxpr(loss)(variables))

    plain, plain_text = gradient_and_text(model)
    rematerialised, remat_text = gradient_and_text(remat)
    assert "remat" in remat_text and "remat" not in plain_text
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), plain, rematerialised
    )


def test_bfloat16_computes_near_float32_with_float32_parameters():
    z = _latent(FRAMES)
    model, variables = _model_and_params(z)
    half = SpaceTimeUNet(**FIELDS | {"dtype": "bfloat16"})
    initial = jax.eval_shape(lambda: half.init(jax.random.key(0), z, LOG_SNR))
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    full_out, half_out = (
        jax.jit(lambda z, module=module: module.apply(variables, z, LOG_SNR))(z)
        for module in (model, half)
    )
    assert half_out.dtype == jnp.float32
    assert np.abs(half_out - full_out).max() < 0.1 * np.abs(full_out).max()
    assert np.abs(half_out - full_out).max() > 0


@pytest.mark.parametrize("float32_ends", [False, True])
def test_the_last_convolution_can_keep_float32_of_a_bfloat16_network(float32_ends):
    z = _latent(FRAMES)
    model, variables = _model_and_params(z, dtype="bfloat16", float32_ends=float32_ends)
    output = jax.jit(lambda z: model.apply(variables, z, LOG_SNR))(z)
    is_bfloat16 = output == output.astype(jnp.bfloat16).astype(jnp.float32)
    assert is_bfloat16.mean() < 0.1 if float32_ends else is_bfloat16.all()


def test_choices_of_the_layout_are_in_its_parameters():
    z = _latent(FRAMES)

    def initial(**fields):
        model = SpaceTimeUNet(**FIELDS | fields)
        return flatten_dict(model.init(jax.random.key(0), z, LOG_SNR)["params"], sep="/")

    params = initial(relative_position_scale=0.25)
    assert params["upsample_1/conv/conv/kernel"].shape == (3, 3, 16, 16)
    assert params["middle_0/temporal_attention/qkv/projection/bias"].shape == (48,)
    relative = params["middle_0/temporal_attention/relative_key"]
    assert relative.std() == pytest.approx(0.25, rel=0.2)
    narrow = initial(narrow_upsampling=True, attention_bias=False)
    assert narrow["upsample_1/conv/conv/kernel"].shape == (3, 3, 16, 8)
    assert not any("qkv/projection/bias" in name for name in narrow)


def test_film_is_a_scale_and_a_shift_of_the_second_norm():
    z = jnp.array(np.random.default_rng(0).normal(size=(1, 1, 2, 2, 8)), jnp.float32)
    embedding = jnp.ones((1, 1, 4))
    block = ResidualBlock(features=8, dropout=0.0, film=True, deterministic=True, dtype=jnp.float32)
    variables = jax.tree.map(
        lambda leaf: 0.3 * jnp.ones(leaf.shape),
        jax.eval_shape(lambda: block.init(jax.random.key(0), z, embedding)),
    )
    params = variables["params"]
    assert params["embedding"]["kernel"].shape == (4, 16)
    # A scale of -1 and a shift of 0 leave nothing of the input but the skip and the bias.
    params["embedding"]["kernel"] = jnp.zeros((4, 16))
    params["embedding"]["bias"] = jnp.concatenate([-jnp.ones(8), jnp.zeros(8)])
    out = block.apply(variables, z, embedding)
    np.testing.assert_allclose(out, z + params["conv_2"]["conv"]["bias"], atol=1e-6)


def test_space_to_depth_groups_the_pixels_of_a_patch():
    z = np.arange(2.0 * 3 * 4 * 6 * 2).reshape(2, 3, 4, 6, 2)
    patches = space_to_depth(jnp.array(z), 2)
    assert patches.shape == (2, 3, 2, 3, 8)
    np.testing.assert_array_equal(patches[1, 2, 1, 2].reshape(2, 2, 2), z[1, 2, 2:4, 4:6])
    np.testing.assert_array_equal(depth_to_space(patches, 2), z)


def test_sizes_that_cannot_be_halved_are_named():
    model = SpaceTimeUNet(**FIELDS)
    with pytest.raises(ValueError, match="9x8 pixels are not divisible by 2"):
        model.init(jax.random.key(0), jnp.zeros((2, 3, 9, 8, 1)), LOG_SNR)


@pytest.mark.parametrize("kind", ["none", "label", "action"])
def test_one_log_snr_per_frame_is_that_of_the_example_where_all_are_equal(kind):
    z = _latent(FRAMES + IMAGES)
    fields, condition = {
        "none": ({}, {}),
        "label": (
            {"num_classes": 10},
            {"label": jnp.array([3, 4]), "image_label": jnp.arange(8).reshape(2, 4)},
        ),
        "action": (
            {"action_width": 2, "guidance_weights": (1.0, 4.0)},
            {"action": jnp.ones((2, FRAMES, 2)), "action_mask": jnp.ones((2, FRAMES), bool)},
        ),
    }[kind]
    model, variables = _model_and_params(z, condition, IMAGES, **fields)
    apply = jax.jit(
        lambda log_snr: model.apply(variables, z, log_snr, condition, num_images=IMAGES)
    )
    per_frame = jnp.broadcast_to(LOG_SNR[:, None], z.shape[:2])
    np.testing.assert_allclose(apply(per_frame), apply(LOG_SNR), atol=1e-4)


def test_a_log_snr_reaches_its_frame_and_through_attention_the_others():
    z = _latent(FRAMES + IMAGES)
    levels = jnp.linspace(-3.0, 3.0, FRAMES + IMAGES)
    log_snr = jnp.stack([levels, levels[::-1]])
    for resolutions, reached in (((), [1]), ((2, 4), range(FRAMES))):
        model, variables = _model_and_params(
            z, num_images=IMAGES, attention_resolutions=resolutions
        )
        apply = jax.jit(
            lambda log_snr, model=model, variables=variables: model.apply(
                variables, z, log_snr, num_images=IMAGES
            )
        )
        changed = np.abs(apply(log_snr.at[0, 1].add(2.0)) - apply(log_snr)).max(axis=(2, 3, 4))
        expected = np.zeros((2, FRAMES + IMAGES), bool)
        expected[0, reached] = True
        np.testing.assert_array_equal(changed > 1e-5, expected)

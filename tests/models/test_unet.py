"""The network as a whole: what may and what may not influence its output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.models.unet import SpaceTimeUNet, depth_to_space, space_to_depth

FIELDS = dict(
    base_channels=8,
    channel_multipliers=(1, 2),
    blocks_per_resolution=1,
    attention_resolutions=(2, 4),
    head_dim=8,
    embedding_dim=32,
    embedding_layers=2,
)
FRAMES, IMAGES = 5, 4


def _latent(frames, batch=2, seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, frames, 4, 4, 1))


def _model_and_params(z, condition=None, num_images=0, **fields):
    """Parameters away from initialisation, whose zeros would hide every influence."""
    model = SpaceTimeUNet(**FIELDS | fields)
    variables = jax.jit(lambda key: model.init(key, z, LOG_SNR, condition, num_images=num_images))(
        jax.random.key(1)
    )
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [
        leaf + 0.2 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return model, jax.tree.unflatten(tree, noisy)


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
    video_alone = model.apply(variables, z[:, :FRAMES], LOG_SNR)
    np.testing.assert_allclose(video_alone, together[:, :FRAMES], atol=1e-4)
    image_alone = model.apply(variables, z[:, FRAMES : FRAMES + 1], LOG_SNR, num_images=1)
    np.testing.assert_allclose(image_alone, together[:, FRAMES : FRAMES + 1], atol=1e-4)


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
        empty = {"text": text, "text_mask": jnp.zeros((2, 3), bool)}
        without = model.apply(variables, z[:, :FRAMES], LOG_SNR)
        np.testing.assert_allclose(
            model.apply(variables, z[:, :FRAMES], LOG_SNR, empty), without, atol=1e-5
        )


def test_condition_dropout_drops_whole_conditions_at_its_rate():
    batch = 400
    z = jnp.zeros((batch, 1, 4, 4, 1))
    log_snr = jnp.zeros(batch)
    condition = {"label": jnp.full(batch, 7)}
    model = SpaceTimeUNet(**FIELDS | {"num_classes": 10, "condition_dropout": 0.25})
    variables = model.init(jax.random.key(0), z[:1], log_snr[:1], {"label": jnp.zeros(1, int)})
    leaves, tree = jax.tree.flatten(variables)
    variables = jax.tree.unflatten(tree, [leaf + 0.1 for leaf in leaves])
    out = model.apply(
        variables, z, log_snr, condition, train=True, rngs={"dropout": jax.random.key(1)}
    )
    with_label = model.apply(variables, z[:1], log_snr[:1], {"label": jnp.array([7])})
    without = model.apply(variables, z[:1], log_snr[:1])
    is_dropped = np.abs(out - without).max(axis=(1, 2, 3, 4)) < 1e-4
    is_kept = np.abs(out - with_label).max(axis=(1, 2, 3, 4)) < 1e-4
    assert (is_dropped ^ is_kept).all()
    assert abs(is_dropped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / batch)


def test_rematerialisation_changes_memory_not_numbers():
    z = _latent(FRAMES)
    model, variables = _model_and_params(z)
    remat = SpaceTimeUNet(**FIELDS | {"remat": True})

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
    initial = half.init(jax.random.key(0), z, LOG_SNR)
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    full_out, half_out = model.apply(variables, z, LOG_SNR), half.apply(variables, z, LOG_SNR)
    assert half_out.dtype == jnp.float32
    assert np.abs(half_out - full_out).max() < 0.1 * np.abs(full_out).max()
    assert np.abs(half_out - full_out).max() > 0


def test_film_scales_and_shifts():
    z = _latent(FRAMES)
    model, variables = _model_and_params(z, film=True)
    kernel = variables["params"]["middle_0"]["residual"]["embedding"]["kernel"]
    assert kernel.shape == (FIELDS["embedding_dim"], 2 * 16)
    assert model.apply(variables, z, LOG_SNR).shape == z.shape


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

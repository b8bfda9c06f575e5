"""Samples are a function of (seed, index)."""

import jax
import numpy as np
import pytest

from tests.compiled import init_params
from vdm.data.captions.word_vectors import encode_caption
from vdm.parallel.mesh import make_mesh
from vdm.sampling.conditions import conditions, describe_conditions
from vdm.sampling.generate import make_generator


def _mesh(config, devices):
    return make_mesh(config, jax.devices()[:devices])


@pytest.mark.slow
def test_batch_size_devices_and_position_do_not_change_samples(tiny_config):
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape),
        init_params(tiny_config),
    )
    tiny_config.sample.update(batch_size=4, sampler="ancestral")
    together = make_generator(tiny_config, _mesh(tiny_config, 1))(params, range(5))
    assert together.shape == (5, 4, 8, 8, 1) and together.dtype == np.uint8
    assert len({video.tobytes() for video in together}) == 5
    tiny_config.sample.batch_size = 3
    elsewhere = make_generator(tiny_config, _mesh(tiny_config, 2))(params, [4, 1])
    np.testing.assert_allclose(elsewhere.astype(int), together[[4, 1]].astype(int), atol=1)
    tiny_config.sample.seed = 1
    assert (make_generator(tiny_config, _mesh(tiny_config, 2))(params, [4]) != elsewhere[:1]).any()


@pytest.mark.usefixtures("quick_compilation_once")
def test_the_default_generator_of_jax_changes_nothing(tiny_config):
    samples = []
    for name in ("threefry2x32", "rbg"):
        with jax.default_prng_impl(name):
            generator = make_generator(tiny_config, _mesh(tiny_config, 1))
            samples.append(generator(init_params(tiny_config), [0, 1]))
    np.testing.assert_array_equal(*samples)


def test_conditions_come_from_the_configuration_or_held_out_data(tiny_config):
    config = tiny_config
    assert conditions(config, [0, 1]) == {}
    config.data.condition, config.model.num_classes = "label", 10
    from_data = conditions(config, [5, 5, 9])["label"]
    assert from_data[0] == from_data[1]
    config.sample.label = 7
    np.testing.assert_array_equal(conditions(config, [0, 1])["label"], [7, 7])
    np.testing.assert_array_equal(describe_conditions(config, [0, 1])["label"], [7, 7])

    config.data.condition, config.model.num_classes, config.model.text_width = "text", 0, 6
    captions = describe_conditions(config, [3])["caption"]
    text, text_mask = encode_caption(captions[0], tokens=config.data.text_tokens, width=6)
    encoded = conditions(config, [3])
    np.testing.assert_array_equal(encoded["text"][0], text)
    np.testing.assert_array_equal(encoded["text_mask"][0], text_mask)
    config.sample.caption = "a seven moving up"
    encoded = conditions(config, [3, 4])
    np.testing.assert_array_equal(encoded["text"][0], encoded["text"][1])
    assert encoded["text_mask"].sum() == 8
    with pytest.raises(ValueError, match="words"):
        config.sample.caption = "too many words " * 9
        conditions(config, [0])

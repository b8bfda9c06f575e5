"""Training states as checkpoints have them."""

from vdm.parallel.mesh import make_mesh
from vdm.training.checkpoints import Checkpoints, abstract_on
from vdm.training.state import state_shapes
from vdm.training.warm_start import load_source, make_first_state


def newest_state(config, workdir):
    """Returns the state of a workdir's newest checkpoint."""
    checkpoints = Checkpoints(workdir, read_only=True)
    abstract = state_shapes(config)
    state = checkpoints.restore(abstract_on(make_mesh(config), abstract))
    checkpoints.close()
    return state


def first_state(config):
    """The state before the first step of a run."""
    mesh = make_mesh(config)
    return make_first_state(config, mesh, load_source(config, mesh))

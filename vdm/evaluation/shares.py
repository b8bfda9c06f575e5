"""What several processes have measured of one set of videos, put together."""

import pickle
from pathlib import Path

import jax

from vdm.metrics.measure import Summary
from vdm.parallel.messages import is_first_process, wait_for_all


def merged(folder: Path, share: Summary) -> Summary | None:
    """The summary of all processes' shares, on process 0; None on the others.

    A covariance of 4,096 features takes 134 MB, too much to be gathered by everybody: shares go
    through files, of which process 0 reads one after another.

    Args:
      folder: that all processes see; is made where it is missing.
      share: of this process. All of them have to make the call.
    """
    if jax.process_count() == 1:
        return share
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"share_{index:05}.pickle" for index in range(jax.process_count())]
    paths[jax.process_index()].write_bytes(pickle.dumps(share))
    wait_for_all("all shares are measured")
    if not is_first_process():
        return None
    for path in paths[1:]:
        share = share.merge(pickle.loads(path.read_bytes()))
    for path in paths:
        path.unlink()
    return share

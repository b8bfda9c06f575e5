# vdm with JAX for TPUs or NVIDIA GPUs, for launch/gke_jobset.yaml or any container runtime:
#   docker build --build-arg EXTRA=tpu --tag IMAGE .
#   docker push IMAGE
#   docker run --gpus=all --volume=DIR:/runs IMAGE --config=moving_digits --workdir=/runs/digits
#
# EXTRA: tpu, cuda13 (NVIDIA driver 580 or newer) or cuda12 (525 or newer).
# Runs as user 1000, who has to be able to write the workdir.
FROM python:3.12.11-slim-bookworm

# A fixed version: builds of the same commit differ only in what setup.py allows.
RUN pip install --no-cache-dir uv==0.13.9
ENV UV_SYSTEM_PYTHON=1 UV_NO_CACHE=1 PYTHONUNBUFFERED=1

# Dependencies first: this layer is rebuilt only if setup.py or EXTRA changes.
ARG EXTRA=cuda13
WORKDIR /vdm
COPY setup.py pyproject.toml LICENSE ./
COPY vdm/__init__.py vdm/
COPY configs/ configs/
COPY checkpoints/ checkpoints/
COPY launch/ launch/
RUN uv pip install --requirements setup.py --extra "$EXTRA" --extra gcs

COPY . .
RUN uv pip install --no-deps --editable . && useradd --create-home --uid 1000 vdm
USER 1000
ENTRYPOINT ["python", "-m", "vdm.main"]

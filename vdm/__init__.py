"""Video Diffusion Models (Ho et al., 2022) in JAX and Flax."""

__version__ = "0.1.0"

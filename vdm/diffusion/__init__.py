"""The mathematics of video diffusion: pure functions, arrays in and arrays out.

This package knows nothing about networks, data or devices, and imports only JAX. Equation numbers
refer to Video Diffusion Models (Ho et al. 2022, arXiv 2204.03458).
"""

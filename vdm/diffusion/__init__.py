"""The mathematics of video diffusion: pure functions, arrays in and arrays out.

Nothing here knows about networks, data or devices: this package imports JAX alone. Equation numbers
are those of Video Diffusion Models (Ho et al. 2022, arXiv 2204.03458).
"""

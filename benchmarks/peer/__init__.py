"""The layers of lucidrains' video-diffusion-pytorch 0.7.0 in Flax, to be timed beside it."""

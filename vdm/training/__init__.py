"""Train state, step, loop, checkpoints and logs."""

"""PushT: a disc that pushes a T-shaped block, drawn by gym-pusht."""

"""Joint reinforcement learning of atomic coding skills, in JAX. Read `skillrl/train.py` first."""

__version__ = "0.1.0"

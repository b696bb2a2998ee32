"""The sandbox service: runs the agent's tools and computes rewards, on CPU hosts, without jax."""

__version__ = "0.1.0"

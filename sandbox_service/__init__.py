"""The sandbox service: runs the agent's tools and computes rewards, on CPU hosts, without jax."""

import os

# Before gRPC is imported. Its handlers of fork run in a child between fork and exec, and kill it while calls are in
# flight (grpcio 1.85: every second child); no process here forks to go on with gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

__version__ = "0.1.0"

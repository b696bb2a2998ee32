"""Eight CPU devices for the mesh tests, set before jax is imported, and what the tests of the learner share."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from episodes import make_episode  # noqa: E402

from skillrl import sharding  # noqa: E402
from skillrl.models.config import ModelConfig  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Tests that make the same program anew find it compiled: compilation is most of the suite's time."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def cfg():
    """The smallest decoder that has every feature."""
    return ModelConfig(vocab=64, embed=16, layers=2, q_heads=4, kv_heads=2, head_dim=8, mlp=32, unroll=2)


@pytest.fixture(scope="session")
def mesh():
    return sharding.make_mesh({}, devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def episodes():
    """Nine episodes of uneven length over three skills."""
    rng = np.random.default_rng(0)
    lengths = [5, 19, 30, 7, 12, 26, 9, 17, 14]
    skills = ["editing", "review", "localization"]
    return [
        make_episode(
            rng.integers(0, 64, n),
            (np.arange(n) >= 2) & (rng.random(n) < 0.7),
            number=i,
            skill=skills[i % 3],
            sampler_logprobs=rng.normal(-4, 0.3, n).astype(np.float32),
        )
        for i, n in enumerate(lengths)
    ]

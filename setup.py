"""One distribution, two packages: `skillrl` (needs jax, an extra) and `sandbox_service` (does not)."""

from pathlib import Path

from setuptools import find_packages, setup

JAX = [
    "flax>=0.12.4",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.25",
    "grain>=0.2.14",
    "sentencepiece>=0.2.0",
    "safetensors>=0.5",
    "jaxtyping>=0.3",
    "tensorboardX>=2.6",
]

setup(
    name="skillrl",
    version="0.1.0",
    description="Joint reinforcement learning of atomic coding skills in JAX, with rewards from real sandboxes",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["skillrl", "skillrl.*", "sandbox_service", "sandbox_service.*"]),
    package_data={"sandbox_service": ["sandbox.proto"]},
    # pytest is a run-time dependency: it is what the service runs inside the sandboxes.
    install_requires=[
        "absl-py>=2.1",
        "grpcio>=1.74",
        "grpcio-health-checking>=1.74",
        "ml-collections>=1.0",
        "numpy>=2.0",
        # Requirements and names of distributions.
        "packaging>=24.0",
        # The committed stubs are made by grpcio-tools 1.74, which needs this protobuf or the next major version.
        "protobuf>=6.31,<8",
        "pytest>=8.4",
        # Task repositories of swebench 5.x and the configurations of MLE-bench.
        "pyyaml>=6.0",
        # From 14.1 on, the bars of an evaluation may stand inside those of the training.
        "rich>=14.1",
    ],
    extras_require={
        "cpu": ["jax>=0.9", *JAX],
        "tpu": ["jax[tpu]>=0.9", *JAX],
        "cuda": ["jax[cuda13]>=0.9", *JAX],
        # The TPU compiler, for `python -m skillrl.compile` on a machine without a TPU. One version of it and of the JAX
        # that hands it programs: what they make of a program is compared with what they made before.
        "compile": ["jax==0.10.2", "libtpu==0.0.52"],
        "docker": ["docker>=7.1"],
        # The published schemas, against which tests hold launch/kubernetes.
        "manifests": ["kubernetes-validate>=1.34"],
        # Datasets of the Hugging Face hub for `python -m skillrl.tasks.readers`; brings pyarrow, which reads Parquet.
        "datasets": ["datasets>=4.0"],
        # What agents of the ML engineering suite work with: beside the service it is copied into their sandboxes, else
        # pip fetches it. The version is the one that the suite names (skillrl/tasks/suites/ml_engineering.py).
        "suites": ["scikit-learn==1.8.0"],
        # `python -m sandbox_service --metrics=PORT`.
        "metrics": ["prometheus-client>=0.20"],
        # jinja2 renders chat templates.
        "hf": ["transformers>=5.0", "jinja2>=3.1"],
        # Models behind OpenAI-compatible endpoints, for configs/eval.py; what huggingface_hub uses too.
        "endpoint": ["httpx2>=2.0"],
        "dev": [
            "beartype>=0.20",
            "grpcio-tools==1.74.0",
            "httpx2>=2.0",
            "hypothesis>=6.130",
            "prometheus-client>=0.20",
            # Of the extra datasets, what reads Parquet; the package itself would ask the network.
            "pyarrow>=20.0",
            "pytest-xdist>=3.6",
            "ruff>=0.13",
        ],
    },
)

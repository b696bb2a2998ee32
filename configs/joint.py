r"""Joint GRPO over the five atomic skills, equal shares (method of arXiv:2604.05013, withdrawn; see README).

    python -m skillrl.main --config=configs/joint.py:model=qwen3-8b --config.policy.source=hf:DIR \
        --config.tasks.path=DIR --config.sandbox.address=HOST:PORT --workdir=...
    python -m skillrl.compile --config=configs/joint.py:model=qwen3-8b       # what it needs of its slice, without a TPU

Each model stands with the slice that its programs were compiled for; the README has the table. No run at this scale
has been made: learning rates and batch sizes are starting points, not measured recipes.
"""

from configs import common

# topology: the slice. mesh: its axes. micro_rows: packed rows of max_tokens each, over the whole mesh. Embedding widths
# divide into parts of at least 128, the lanes of a TPU register, wherever the mesh allows it.
MODELS = {
    "qwen3-8b": dict(topology="v5p:2x4x4", mesh=dict(fsdp=32), micro_rows=32),
    "llama-3.1-8b": dict(topology="v5p:2x4x4", mesh=dict(fsdp=32), micro_rows=32),
    "qwen3-32b": dict(topology="v5p:4x4x4", mesh=dict(fsdp=32, tensor=2), micro_rows=32),
    "qwen3-coder-30b-a3b": dict(topology="v5p:4x4x4", mesh=dict(fsdp=16, expert=4), micro_rows=64),
    "glm-4.5-air": dict(topology="v5p:4x4x4", mesh=dict(fsdp=16, expert=4), micro_rows=64),
    "glm-4.5-air-128k": dict(
        variant="glm-4.5-air",
        topology="v5p:4x8x8",
        mesh=dict(fsdp=16, expert=4, context=4),
        micro_rows=64,
        max_tokens=131_072,
    ),
}


def get_config(arg: str = ""):
    """`:model=NAME` is one of MODELS."""
    name = common.parse_arg(arg, model="qwen3-coder-30b-a3b").model
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; one of {', '.join(MODELS)}")
    model = dict(MODELS[name])
    max_tokens = model.get("max_tokens", 32_768)
    c = common.base_config()
    # Random weights until a folder is given: enough to compile with.
    c.policy.source = f"init:{model.get('variant', name)}"
    c.policy.update(dict(dtype="bfloat16", remat="full", unroll=1))
    c.topology = model["topology"]
    c.mesh.update(dict(fsdp=1) | model["mesh"])
    c.rollout.max_tokens = max_tokens
    c.packing.row_tokens = max_tokens
    c.learner.micro_rows = model["micro_rows"]
    return c

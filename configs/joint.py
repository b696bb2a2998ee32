r"""Joint GRPO over the five atomic skills, equal shares (method of arXiv:2604.05013, withdrawn; see README).

    python -m skillrl.main --config=configs/joint.py:model=qwen3-8b --config.policy.source=hf:DIR \
        --config.tasks.source=DIR --config.sandbox.address=HOST:PORT --workdir=...
    python -m skillrl.compile --config=configs/joint.py:model=qwen3-8b       # what it needs of its slice, without a TPU

Today a run is one process on one host, with the devices of that host. The programs compile for whole slices, but
nothing yet starts and feeds the processes of several hosts, and the main command refuses devices of others.

Each model stands with the slice that its programs were compiled for; the README has the table. No run at this scale
has been made: learning rates and batch sizes are starting points, not measured recipes.
"""

from configs import common

# topology: the slice. mesh: its axes. micro_rows: packed rows of max_tokens each, over the whole mesh. rows: episodes
# open in the sampler. replica_chips: those that share one copy of the weights there. With parts of 128 or more of the
# embedding width (4096 over 32 devices) the learner gathers weights while it multiplies; with smaller ones it
# adds up whole weights instead: twice the bytes, and no overlap.
MODELS = {
    "qwen3-8b": dict(topology="v5p:2x4x4", mesh=dict(fsdp=32), micro_rows=32, replica_chips=4),
    "llama-3.1-8b": dict(topology="v5p:2x4x4", mesh=dict(fsdp=32), micro_rows=32, replica_chips=4),
    "qwen3-32b": dict(topology="v5p:4x4x4", mesh=dict(fsdp=32, tensor=2), micro_rows=32, replica_chips=8),
    "qwen3-coder-30b-a3b": dict(topology="v5p:4x4x4", mesh=dict(fsdp=16, expert=4), micro_rows=64, replica_chips=4),
    "glm-4.5-air": dict(
        topology="v5p:4x4x4",
        mesh=dict(fsdp=16, expert=4),
        micro_rows=64,
        rows=64,
        replica_chips=8,
        first_moment="bfloat16",
    ),
    "glm-4.5-air-128k": dict(
        variant="glm-4.5-air",
        topology="v5p:4x8x8",
        mesh=dict(fsdp=16, expert=4, context=4),
        micro_rows=64,
        rows=64,
        replica_chips=8,
        max_tokens=131_072,
        first_moment="bfloat16",
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
    c.rollout.update(dict(max_tokens=max_tokens, rows=model.get("rows", 128), replica_chips=model["replica_chips"]))
    c.packing.row_tokens = max_tokens
    # 1024 tokens at a time keep the head's product busy with arithmetic, not with reading its weights.
    c.learner.update(dict(micro_rows=model["micro_rows"], logprob_chunk=1024))
    c.learner.first_moment_dtype = model.get("first_moment", "float32")
    return c

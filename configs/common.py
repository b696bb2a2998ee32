"""What every config shares: the typed `:argument` parser and the full set of fields with their defaults."""

from ml_collections import ConfigDict


def parse_arg(arg: str, **defaults):
    """Parses `key=value,key=value` (a bare key means True) to the types of `defaults`.

    Raises ValueError naming the unknown key or the value of a wrong type.
    """
    values = dict(defaults)
    for part in filter(None, arg.split(",")):
        key, _, text = part.partition("=")
        if key not in defaults:
            raise ValueError(f"unknown config argument {key!r}; known: {', '.join(sorted(defaults)) or 'none'}")
        kind = type(defaults[key])
        if kind is bool:
            if text not in ("", "true", "false"):
                raise ValueError(f"config argument {key} takes true or false, not {text!r}")
            values[key] = text != "false"
        else:
            try:
                values[key] = kind(text)
            except ValueError:
                raise ValueError(f"config argument {key} takes a {kind.__name__}, not {text!r}") from None
    return ConfigDict(values)


def base_config() -> ConfigDict:
    """Every field of a run. A config file changes values; it cannot add fields (the dict is locked)."""
    c = ConfigDict()
    # "rl": joint GRPO. "sft": supervised warm start on proven scripted trajectories. "exam": evaluation alone.
    c.program = "rl"
    c.seed = 0
    c.num_steps = 500

    # Where the policy comes from: "hf:DIR" imports a Hugging Face folder, "run:WORKDIR" or "run:WORKDIR@STEP" a run's
    # checkpoint with its tokenizer and chat format, "init:VARIANT" starts from random weights.
    # tokenizer: a SentencePiece model or a folder with the tokenizer and chat template of an instruct model; "" is that
    # of the source. chat: how messages are written (skillrl.chat.FORMATS); "" is what the tokenizer's folder holds.
    # thinking: handed to the chat template as enable_thinking.
    c.policy = ConfigDict(dict(source="init:tiny", tokenizer="", chat="", thinking=True))
    # Fields of skillrl.models.config.ModelConfig: dtype of matrix products and activations, dtype of the parameters,
    # what the backward pass recomputes, layers unrolled into one loop body.
    c.policy.update(dict(dtype="float32", param_dtype="float32", remat="none", unroll=4))
    # Devices along each axis; -1 takes all that remain.
    c.mesh = ConfigDict(dict(data=1, fsdp=-1, expert=1, context=1, tensor=1))
    # TPU slice that the config was made for; what `python -m skillrl.compile` takes unless it is told another.
    c.topology = ""

    # A task set's folder. Empty: the world is generated into the workdir from `world`.
    c.tasks = ConfigDict(dict(source="", kinds=("bug_fixing",)))
    c.world = ConfigDict(dict(seed=0, levels=(0,), train=256, heldout_repositories=24, heldout_families=12))

    # Share of admitted groups for each skill; a skill at 0 is not trained.
    c.skills = ConfigDict(dict(localization=1.0, editing=1.0, unit_tests=1.0, reproduction=1.0, review=1.0))

    c.rollout = ConfigDict(
        dict(
            groups_per_step=64,
            group_size=8,
            # Episodes open in the sampler at the same time.
            rows=256,
            # Tokens that its cache holds; 0: as many as `rows` episodes can need. With less, episodes that wait for
            # their tools lose theirs when room runs short, and are computed again.
            cache_tokens=0,
            # What its keys and values are stored in: "" is policy.dtype, "float8_e4m3fn" takes half of bfloat16's room
            # and changes the log-probabilities (docs/benchmarks/sampler.md).
            cache_dtype="",
            # What its matrices are held in: "" is policy.dtype; "int8", with a scale for each output channel, is a copy
            # of half of bfloat16's room and reading that changes the log-probabilities too.
            weights_dtype="",
            # Chips of a sampler replica, each with a whole copy of the weights, shared by heads and widths. 0: sampling
            # uses the learner's mesh and weights as they are, and gathers them in every step.
            replica_chips=0,
            max_tokens=32_768,
            # Tokens that every prompt must leave for turns: where the task set has longer prompts, training raises
            # max_tokens and packing.row_tokens to fit, within the policy's positions. 0: they stay as they are, and
            # training tasks with longer prompts are left out.
            room_tokens=0,
            max_turns=50,
            max_observation_tokens=4096,
            wall_s=1800.0,
            exec_timeout_s=120.0,
            temperature=1.0,
            # Extra groups drawn in place of groups without variance, as a share of groups_per_step.
            refill=0.5,
        )
    )
    # How truncated episodes enter the loss: "keep" their reward, or "mask" them.
    c.reward = ConfigDict(dict(mode="paper", truncated="keep"))
    # Estimator of group-relative advantages: "mean" (the paper), "std", "leave_one_out".
    c.advantages = ConfigDict(dict(estimator="mean"))
    # Fields of skillrl.rl.losses.LossConfig and skillrl.rl.learner.LearnerConfig.
    c.loss = ConfigDict(dict(loss="grpo", clip_low=0.2, clip_high=0.28, kl_coef=0.0, importance_cap=2.0))
    c.learner = ConfigDict(
        dict(
            learning_rate=1e-6,
            warmup_steps=10,
            weight_decay=0.0,
            max_grad_norm=1.0,
            micro_rows=8,
            epochs=1,
            logprob_chunk=128,
            first_moment_dtype="float32",
            optimizer_memory="device",
            lora_rank=0,
            lora_alpha=32.0,
        )
    )
    # Tokens of a packed row; denominators of the loss ("skill_token_mean", "token_mean", "sequence_mean").
    # `rows` is used by the warm-up of the supervised program alone.
    c.packing = ConfigDict(dict(row_tokens=32_768, denominator="skill_token_mean", rows=0))
    # address "": a service embedded in this process's life; else one or several, separated by commas. credentials: the
    # client's folder for services beyond loopback. Training stops when more than `max_infra_share` of a step's
    # episodes are lost to faults of the service; while most are, new ones wait, for at most `max_outage_s`.
    c.sandbox = ConfigDict(
        dict(
            address="",
            credentials="",
            allow_unsafe=False,
            max_in_flight=256,
            max_infra_share=0.3,
            max_outage_s=300.0,
        )
    )
    # every_steps 0: at the end alone, and before evaluations. An error keeps the last whole step too.
    c.checkpoint = ConfigDict(dict(every_steps=10, keep=3))
    # every_steps 0: only before and after training. suites: splits of the task set; max_tasks: of each suite and skill,
    # 0 for all.
    suites = ("heldout_repositories", "heldout_families")
    c.eval = ConfigDict(dict(every_steps=0, samples=3, temperature=1.0, max_tasks=0, suites=suites))
    # Generated tasks of the composite kinds for the program "exam", whose eval.suites are skillrl.evaluate.EXAM_SUITES:
    # seeds of each kind; one may give several tasks.
    c.composite = ConfigDict(dict(seed=0, instances=8))
    # An OpenAI-compatible endpoint to evaluate in place of a policy. key_variable: name of the environment variable
    # with its key, never the key itself. timeout_s: of one request, made `tries` times before an episode is ungradable.
    # fields: a JSON object of further fields of the request; null takes one away.
    c.endpoint = ConfigDict(
        dict(
            url="",
            model="",
            key_variable="",
            max_in_flight=16,
            max_reply_tokens=8192,
            timeout_s=300.0,
            tries=6,
            fields="",
        )
    )
    # Supervised warm start (program "sft").
    c.sft = ConfigDict(dict(careful_share=0.25, warmup_tokens=0, vocab_size=1536, episodes_per_step=24))
    return c.lock()

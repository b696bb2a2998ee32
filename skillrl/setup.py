"""From a config to the parts of a run: sandbox service, tokenizer, policy, learner, sampler and collector."""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sandbox_service.client import SandboxClient
from sandbox_service.embedded import embedded_service
from skillrl import checkpoint, export, sharding
from skillrl.chat import ChatFormat, CompactChat, TemplateChat
from skillrl.limits import ConfigError
from skillrl.models import families, hf
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig, variant
from skillrl.models.hf_files import read_json
from skillrl.rl.learner import Learner, LearnerConfig
from skillrl.rl.losses import LossConfig
from skillrl.rollout.agents import Agents
from skillrl.rollout.collector import Collector
from skillrl.rollout.episode import Budgets
from skillrl.sampling import weights
from skillrl.sampling.engine import Engine
from skillrl.tokenizer import HFTokenizer, SentencePieceTokenizer

# Where a run keeps its tokenizer: a SentencePiece model, or a folder with a Hugging Face tokenizer.
TOKENIZER_FILE, TOKENIZER_FOLDER = export.SENTENCEPIECE, "tokenizer"


@dataclass(frozen=True)
class Policy:
    """A policy as a run holds it."""

    cfg: ModelConfig
    # None once a learner holds its own copy and nothing asks for these.
    params: models.Params | None
    mesh: Mesh
    chat: ChatFormat
    # A SentencePiece model, or a folder with a Hugging Face tokenizer.
    tokenizer_file: Path


@contextlib.asynccontextmanager
async def sandbox_client(config: ConfigDict, task_dirs: Sequence[Path], run_id: str) -> AsyncIterator[SandboxClient]:
    """A client of the configured service, or of one embedded in this process's life."""
    async with contextlib.AsyncExitStack() as stack:
        address = config.sandbox.address
        if not address:
            service = embedded_service(task_dirs, allow_unsafe=config.sandbox.allow_unsafe)
            address = await stack.enter_async_context(service)
        client = SandboxClient(address, run_id, credentials=config.sandbox.credentials or None)
        await stack.enter_async_context(client)
        await client.wait_ready()
        unsafe = [address for address, info in (await client.infos()).items() if info.unsafe]
        if unsafe and not config.sandbox.allow_unsafe:
            raise ConfigError(
                f"the service at {unsafe[0]} runs without isolation; start it without --allow-unsafe, or accept that "
                "with --config.sandbox.allow_unsafe=True"
            )
        yield client


def max_outage_s(config: ConfigDict) -> float:
    """How long to wait for a service that fails; one that is embedded in this process's life does not come back."""
    return config.sandbox.max_outage_s if config.sandbox.address or config.endpoint.url else 0.0


def make_mesh(config: ConfigDict) -> Mesh:
    """The configured mesh over all devices. Raises ConfigError where they belong to several processes."""
    mesh = sharding.make_mesh(config.mesh.to_dict())
    if processes := {device.process_index for device in mesh.devices.flat} - {jax.process_index()}:
        raise ConfigError(
            f"the devices belong to {len(processes) + 1} processes, and these programs run in one; start them on a "
            "single host, with the devices of that host alone"
        )
    return mesh


def load_policy(config: ConfigDict) -> Policy:
    """Imports or initialises the policy on the configured mesh."""
    mesh = make_mesh(config)
    kind, name = source_of(config)
    if kind == "run":
        return _load_run(config, name, mesh)
    if kind == "init" and not config.policy.tokenizer:
        raise ConfigError(
            "a policy with random weights has no tokenizer of its own; give --config.policy.tokenizer=FILE"
        )
    tokenizer_file, chat = load_chat(config, Path(config.policy.tokenizer or name))
    if kind == "hf":
        cfg, params = hf.load_hf(Path(name), mesh, **_model_fields(config))
        _check_vocabulary(tokenizer_file, chat, cfg, name)
    else:
        cfg = variant(name, vocab=-(-chat.tokenizer.vocab_size // 64) * 64, **_model_fields(config))
        params = models.split(models.Policy.create(cfg, mesh, config.seed))
    return Policy(cfg, params, mesh, chat, tokenizer_file)


def _load_run(config: ConfigDict, name: str, mesh: Mesh) -> Policy:
    """A checkpoint's policy with the tokenizer and chat format that the run kept."""
    workdir, step = checkpoint_of(name)
    _, cfg, params, _ = checkpoint.load_policy(workdir / "checkpoints", mesh, step)
    kept = kept_config(workdir)
    source = workdir / TOKENIZER_FOLDER if (workdir / TOKENIZER_FOLDER).is_dir() else workdir
    tokenizer_file, chat = load_chat(kept, Path(config.policy.tokenizer or source))
    _check_vocabulary(tokenizer_file, chat, cfg, name)
    return Policy(cfg, params, mesh, chat, tokenizer_file)


def checkpoint_of(name: str) -> tuple[Path, int]:
    """Workdir and step of "WORKDIR" (its newest) or "WORKDIR@STEP". Raises ConfigError where there is none."""
    head, at, step = name.rpartition("@")
    workdir = Path(head if at and step.isdecimal() else name)
    folder = workdir / "checkpoints"
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []
    if not steps:
        raise ConfigError(f"no checkpoint in {workdir}; give a training run with --config.policy.source=run:WORKDIR")
    if at and step.isdecimal() and int(step) not in steps:
        raise ConfigError(f"{workdir} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    return workdir, int(step) if at and step.isdecimal() else steps[-1]


def _check_vocabulary(tokenizer_file: Path, chat: ChatFormat, cfg: ModelConfig, name: str) -> None:
    if chat.tokenizer.vocab_size > cfg.vocab:
        raise ConfigError(
            f"{tokenizer_file} has {chat.tokenizer.vocab_size} tokens, the policy at {name} {cfg.vocab}; "
            "give the tokenizer that the policy was made with"
        )


def model_config(config: ConfigDict) -> ModelConfig:
    """The configured model without its weights; a variant has its own vocabulary here."""
    kind, name = source_of(config)
    if kind == "init":
        return variant(name, **_model_fields(config))
    if kind == "run":
        raise ConfigError(f"policy.source={config.policy.source!r}; compile what the run exports: hf:{name}/hf")
    file = Path(name) / "config.json"
    return dataclasses.replace(families.from_hf_config(read_json(file), str(file)), **_model_fields(config))


def source_of(config: ConfigDict) -> tuple[str, str]:
    """The parts of policy.source. Raises ConfigError where it is none, or no such folder."""
    kind, _, name = config.policy.source.partition(":")
    if kind not in ("hf", "run", "init") or not name:
        raise ConfigError(f"policy.source={config.policy.source!r}; write hf:DIR or init:VARIANT, or run:WORKDIR@STEP")
    if kind == "hf" and not Path(name).is_dir():
        raise ConfigError(f"no policy at {name}; give a Hugging Face folder with --config.policy.source=hf:DIR")
    return kind, name


def _model_fields(config: ConfigDict) -> dict[str, str | int]:
    return {name: config.policy[name] for name in ("dtype", "param_dtype", "remat", "unroll")}


def load_chat(config: ConfigDict, source: Path) -> tuple[Path, ChatFormat]:
    """The tokenizer at `source`, a file or a folder, and the format in which it writes messages."""
    inside = source / TOKENIZER_FILE
    name = config.policy.chat
    if name == "compact" or (not name and (inside.is_file() or not source.is_dir())):
        file = inside if source.is_dir() else source
        return file, CompactChat(SentencePieceTokenizer(file))
    if not source.is_dir():
        raise ConfigError(
            f"policy.chat={name} needs a folder with tokenizer.json and a chat template, {source} is none; give one "
            "with --config.policy.tokenizer=DIR"
        )
    return source, TemplateChat(HFTokenizer(source), name, thinking=config.policy.thinking)


def keep_tokenizer(source: Path, workdir: Path) -> None:
    """Copies a policy's tokenizer, so that the run can be exported from its workdir alone."""
    if source.is_file():
        shutil.copyfile(source, workdir / TOKENIZER_FILE)
        return
    folder = workdir / TOKENIZER_FOLDER
    folder.mkdir(exist_ok=True)
    for name in export.TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def keep_config(config: ConfigDict, workdir: Path) -> None:
    """Writes the config beside what it made, for the model card."""
    (workdir / export.CONFIG_FILE).write_text(config.to_json_best_effort(indent=1) + "\n", encoding="utf-8")


def kept_config(workdir: Path) -> ConfigDict:
    """The config of a run's last start, with the budgets that it raised."""
    return ConfigDict(read_json(workdir / export.CONFIG_FILE))


def make_learner(config: ConfigDict, cfg: ModelConfig, mesh: Mesh, *, decay_steps: int = 0) -> Learner:
    loss = config.loss.to_dict()
    learner = LearnerConfig(
        loss=LossConfig(**loss),
        temperature=config.rollout.temperature if loss["loss"] != "sft" else 1.0,
        decay_steps=decay_steps,
        **config.learner.to_dict(),
    )
    return Learner(cfg, learner, mesh)


def make_engine(config: ConfigDict, policy: Policy, params: models.Params, version: int) -> Engine:
    """The sampler. Raises ShardingError where its replicas do not divide the devices or the model."""
    mesh, chips, dtype = policy.mesh, config.rollout.replica_chips, config.rollout.weights_dtype
    copies = {}
    if chips:
        mesh = weights.replica_mesh(mesh, chips)
    if chips or dtype:
        copies = {"place": functools.partial(weights.copied, policy.cfg, mesh, dtype)}
    return Engine(
        policy.cfg,
        params,
        stop_ids=policy.chat.stop_ids,
        streams=config.rollout.rows,
        max_tokens=config.rollout.max_tokens,
        cache_tokens=config.rollout.cache_tokens,
        cache_dtype=config.rollout.cache_dtype,
        mesh=mesh,
        version=version,
        **copies,
    )


def make_budgets(config: ConfigDict) -> Budgets:
    names = [f.name for f in dataclasses.fields(Budgets)]
    return Budgets(**{name: config.rollout[name] for name in names})


def make_collector(
    config: ConfigDict,
    agents: Agents,
    client: SandboxClient,
    chat: ChatFormat,
    budgets: Budgets | None = None,
    max_in_flight: int | None = None,
) -> Collector:
    """Plays episodes within the configured limits, or within other budgets and fewer at a time."""
    at_once = config.sandbox.max_in_flight
    return Collector(
        agents,
        client,
        chat,
        budgets or make_budgets(config),
        max_in_flight=min(at_once, max_in_flight or at_once),
        reward_mode=config.reward.mode,
        max_outage_s=max_outage_s(config),
    )

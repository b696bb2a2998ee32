"""The sampler's workload through Tunix's own sampler, in a process and an environment of its own.

PYTHONPATH=. PATH/TO/python -m skillrl.bench.peer_tunix FOLDER, where that environment has `google-tunix` (0.1.7), and
FOLDER weights and workload. Each line on standard input asks for one round; the answer is a JSON line with its seconds.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from tunix.generate import sampler
from tunix.models.qwen3 import model, params

from skillrl.bench import workload

# Rows of a call: with 64 of 1024 tokens it took more than 18 GB.
_MOST_ROWS = 16


class Ids:
    """A tokenizer whose texts are lists of ids."""

    def encode(self, ids, **_):
        return ids

    def decode(self, ids, **_):
        return ""

    def bos_id(self):
        return None

    def eos_id(self):
        return -1

    def pad_id(self):
        return 0


class Peer:
    """Left-padded batches from the first token again, padded to the powers of two that the sampler pads prompts to.

    Every call has the same number of steps and one of few batch sizes, since each shape is compiled: missing rows are
    repeated ones. The longest answer decides the steps, as no token ends a turn. Large batches are played in parts.
    """

    def __init__(self, folder: Path, episodes: workload.Episodes):
        self.steps = max(turn.answer for turns in episodes for turn in turns)
        longest = _power_of_two(workload.longest(episodes))
        cfg = _config(json.loads((folder / "config.json").read_text()))
        self.sampler = sampler.Sampler(
            params.create_model_from_safe_tensors(str(folder), cfg, dtype=jnp.float32),
            Ids(),
            sampler.CacheConfig(longest + self.steps, cfg.num_layers, cfg.num_kv_heads, cfg.head_dim),
        )

    def generate(self, numbers: list[int], histories: list[list[int]], answers: list[int]) -> list[jax.Array]:
        tokens = []
        for part in _parts(histories):
            padded = part + part[:1] * (_power_of_two(len(part)) - len(part))
            tokens += self.sampler(padded, self.steps, temperature=1.0, top_p=1.0, seed=0).tokens[: len(part)]
        return tokens

    def warm_up(self, episodes: workload.Episodes) -> None:
        """Compiles every shape that the episodes need."""
        shapes = set()

        def note(numbers, histories, answers):
            for part in _parts(histories):
                shapes.add((_power_of_two(len(part)), _power_of_two(max(map(len, part)))))
            return [[1] * answer for answer in answers]

        workload.play_lockstep(note, workload.hurried(episodes))
        for rows, width in sorted(shapes):
            self.generate([], [[1] * width] * rows, [])


def _parts(histories: list[list[int]]) -> list[list[list[int]]]:
    return [histories[start : start + _MOST_ROWS] for start in range(0, len(histories), _MOST_ROWS)]


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _config(hf: dict) -> model.ModelConfig:
    return model.ModelConfig(
        num_layers=hf["num_hidden_layers"],
        vocab_size=hf["vocab_size"],
        embed_dim=hf["hidden_size"],
        hidden_dim=hf["intermediate_size"],
        num_heads=hf["num_attention_heads"],
        head_dim=hf["head_dim"],
        num_kv_heads=hf["num_key_value_heads"],
        rope_theta=int(hf.get("rope_theta") or hf["rope_parameters"]["rope_theta"]),
        norm_eps=hf["rms_norm_eps"],
        use_tied_embedding=hf["tie_word_embeddings"],
    )


def main() -> None:
    folder = Path(sys.argv[1])
    episodes = workload.read(folder / "workload.json")
    peer = Peer(folder, episodes)
    peer.warm_up(episodes)
    workload.serve(
        lambda: workload.play_lockstep(peer.generate, episodes), sys.stdin, lambda line: print(line, flush=True)
    )


if __name__ == "__main__":
    main()

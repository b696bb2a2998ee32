"""The sampler's workload through transformers `generate`, in a process of its own.

python -m skillrl.bench.peer_generate FOLDER, with weights and workload in FOLDER. Each line on standard input asks for
one round; the answer is a JSON line with its seconds.
"""

import os
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from skillrl.bench import workload


class Peer:
    """Left-padded batches, each turn as long as its longest answer, from the first token again."""

    def __init__(self, folder: Path):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        self.model.eval()
        # No token ends a turn.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def generate(self, numbers: list[int], histories: list[list[int]], answers: list[int]) -> list[list[int]]:
        width, count = max(map(len, histories)), max(answers)
        ids = torch.tensor([[0] * (width - len(history)) + history for history in histories])
        mask = torch.tensor([[0] * (width - len(history)) + [1] * len(history) for history in histories])
        out = self.model.generate(ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=count)
        return out[:, width:].tolist()


def main() -> None:
    # As many threads as the machine has cores; torch would take half of them where they share a core in pairs.
    torch.set_num_threads(os.cpu_count())
    folder = Path(sys.argv[1])
    peer, episodes = Peer(folder), workload.read(folder / "workload.json")
    first = [[turns[0]] for turns in episodes[:2]]
    workload.play_lockstep(peer.generate, workload.hurried(first))
    workload.serve(
        lambda: workload.play_lockstep(peer.generate, episodes), sys.stdin, lambda line: print(line, flush=True)
    )


if __name__ == "__main__":
    main()

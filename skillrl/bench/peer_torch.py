"""The learner's step in PyTorch, in a process of its own: same weights, data, loss and optimizer.

python -m skillrl.bench.peer_torch FOLDER BATCH.npz OPTIONS, with OPTIONS a JSON object. Each line on standard input
asks for one step; the answer is a JSON line with its loss and seconds.
"""

import json
import sys
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM


class Peer:
    """A Hugging Face folder trained as transformers trains it: gradient checkpointing, AdamW, clipped gradients."""

    def __init__(self, folder: str, batch: dict[str, np.ndarray], options: dict):
        self.device = torch.device(options["device"])
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        self.model.to(self.device).train()
        if options["checkpointing"]:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.options = options
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=options["learning_rate"],
            betas=(options["beta1"], options["beta2"]),
            eps=options["epsilon"],
            weight_decay=0.0,
            fused=True,
        )
        self.batch = {name: torch.from_numpy(x).to(self.device) for name, x in batch.items()}

    def step(self) -> float:
        """One update; its loss."""
        batch, options = self.batch, self.options
        total, rows = 0.0, options["micro_rows"]
        for start in range(0, len(batch["tokens"]), rows):
            micro = {name: x[start : start + rows] for name, x in batch.items()}
            with torch.autocast(self.device.type, torch.bfloat16, enabled=options["dtype"] == "bfloat16"):
                loss = self._loss(micro)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), options["max_grad_norm"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _loss(self, micro):
        segments, length = micro["segment_ids"], micro["tokens"].shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        mask = (segments[:, :, None] == segments[:, None, :]) & earlier
        out = self.model.model(
            input_ids=micro["tokens"], position_ids=micro["positions"], attention_mask=mask[:, None], use_cache=False
        )
        # The output at t - 1 predicts the token at t; logits are made for policy tokens alone.
        row, at = torch.nonzero(micro["loss_mask"], as_tuple=True)
        logits = self.model.lm_head(out.last_hidden_state[row, at - 1]).float()
        logprobs = -torch.nn.functional.cross_entropy(logits, micro["tokens"][row, at].long(), reduction="none")
        return -(micro["loss_weights"][row, at] * micro["advantages"][row, at] * logprobs).sum()


def main() -> None:
    folder, batch, options = sys.argv[1], dict(np.load(sys.argv[2])), json.loads(sys.argv[3])
    torch.set_num_threads(options["threads"])
    peer = Peer(folder, batch, options)
    for _ in sys.stdin:
        started = time.perf_counter()
        loss = peer.step()
        if peer.device.type == "cuda":
            torch.cuda.synchronize()
        print(json.dumps({"loss": loss, "seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()

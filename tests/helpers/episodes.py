"""Episodes made by hand."""

import numpy as np

from skillrl.types import Episode, Outcome, Status, Task


def make_episode(tokens, mask, *, number=0, skill="editing", group="g", sampler_logprobs=None, outcome=None, **fields):
    tokens = np.asarray(tokens, np.int32)
    return Episode(
        episode_id=f"e{number}",
        group_id=group,
        task=Task(f"t{number}", skill, "i", "r", "f", "train", 0, {}),
        tokens=tokens,
        loss_mask=np.asarray(mask, bool),
        sampler_logprobs=np.zeros(len(tokens), np.float32) if sampler_logprobs is None else sampler_logprobs,
        versions=np.zeros(len(tokens), np.int32),
        turns=(),
        status=fields.pop("status", Status.SUBMITTED),
        outcome=outcome or Outcome(1.0),
        **fields,
    )

"""What a sampler hands back, and how it fails."""

from dataclasses import dataclass

import numpy as np


class SamplingError(Exception):
    """One episode's turn cannot be sampled; the other episodes go on."""


@dataclass(frozen=True)
class Sampled:
    """One turn of N tokens, the stop token included where there is one."""

    tokens: np.ndarray  # int32 [N]
    # Log-probability of each token at the sampling temperature, over the full vocabulary.
    logprobs: np.ndarray  # float32 [N]
    # Policy version that sampled each token; -1 where no policy did.
    versions: np.ndarray  # int32 [N]
    # True when the turn ended with a stop token, False when its budget ran out.
    stopped: bool
    # Log-probability over what top-k and top-p left of the vocabulary; None where they left all of it.
    support_logprobs: np.ndarray | None = None  # float32 [N]

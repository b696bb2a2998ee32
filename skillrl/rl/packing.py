"""Episodes -> Batch: several episodes a row, and the denominators of the loss as weights of tokens."""

from collections.abc import Sequence

import numpy as np

from skillrl.types import COMPOSITE_KINDS, SKILLS, Batch, Episode

SKILL_NAMES = SKILLS + COMPOSITE_KINDS
DENOMINATORS = ("skill_token_mean", "token_mean", "sequence_mean")


class PackingError(ValueError):
    """Episodes that do not fit; the message names the episode and the remedy."""


def pack(
    episodes: Sequence[Episode],
    advantages: Sequence[float],
    *,
    length: int,
    rows_multiple: int = 1,
    denominator: str = "skill_token_mean",
) -> Batch:
    """Packs episodes into as few rows of `length` tokens as first-fit decreasing finds.

    The number of rows is rounded up to `rows_multiple` (the learner's micro-batch) with empty ones. `denominator`:
    "token_mean": 1 / number of policy tokens; "skill_token_mean": the mean over the skills present of each one's
    token mean, so that long episodes of one skill do not drown another; "sequence_mean": the mean over episodes of
    each one's token mean. The weights of a batch sum to 1, or to 0 when it holds no policy token.
    """
    if len(advantages) != len(episodes):
        raise PackingError(f"{len(episodes)} episodes but {len(advantages)} advantages")
    rows = first_fit_decreasing([_checked_length(episode, length) for episode in episodes], length)
    weights = loss_weights(episodes, denominator)

    num_rows = max(1, -(-len(rows) // rows_multiple)) * rows_multiple
    shape = (num_rows, length)
    batch = Batch(
        tokens=np.zeros(shape, np.int32),
        segment_ids=np.zeros(shape, np.int32),
        positions=np.zeros(shape, np.int32),
        loss_mask=np.zeros(shape, bool),
        advantages=np.zeros(shape, np.float32),
        sampler_logprobs=np.zeros(shape, np.float32),
        skill_ids=np.full(shape, -1, np.int32),
        loss_weights=np.zeros(shape, np.float32),
    )
    for r, members in enumerate(rows):
        start = 0
        for segment, i in enumerate(members, 1):
            episode = episodes[i]
            span = slice(start, start + len(episode.tokens))
            start = span.stop
            mask = _policy_tokens(episode)
            batch.tokens[r, span] = episode.tokens
            batch.segment_ids[r, span] = segment
            batch.positions[r, span] = np.arange(len(episode.tokens))
            batch.loss_mask[r, span] = mask
            batch.advantages[r, span] = advantages[i]
            batch.sampler_logprobs[r, span] = episode.sampler_logprobs
            batch.skill_ids[r, span] = SKILL_NAMES.index(episode.task.skill)
            batch.loss_weights[r, span] = np.where(mask, weights[i], 0)
    return batch


def loss_weights(episodes: Sequence[Episode], denominator: str) -> np.ndarray:
    """Weight of each policy token of each episode, float64 [number of episodes]; see `pack`."""
    if denominator not in DENOMINATORS:
        raise PackingError(f"denominator={denominator!r}; one of {DENOMINATORS}")
    counts = np.array([_policy_tokens(episode).sum() for episode in episodes], np.float64)
    safe = np.maximum(counts, 1)
    if denominator == "token_mean":
        return np.full(len(episodes), 1 / max(counts.sum(), 1))
    if denominator == "sequence_mean":
        return 1 / (safe * max(np.count_nonzero(counts), 1))
    skills = np.array([episode.task.skill for episode in episodes])
    totals = {skill: counts[skills == skill].sum() for skill in set(skills.tolist())}
    present = max(sum(total > 0 for total in totals.values()), 1)
    return np.array([1 / (present * max(totals[skill], 1)) for skill in skills.tolist()])


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of at most `capacity`, as lists of indices; the longest first, each into the first bin with room."""
    bins: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        b = next((b for b, free in enumerate(room) if free >= lengths[i]), len(bins))
        if b == len(bins):
            bins.append([])
            room.append(capacity)
        bins[b].append(i)
        room[b] -= lengths[i]
    return bins


def _policy_tokens(episode: Episode) -> np.ndarray:
    """The loss mask without the first token: nothing comes before it that could predict it."""
    mask = episode.loss_mask.copy()
    mask[:1] = False
    return mask


def _checked_length(episode: Episode, length: int) -> int:
    if len(episode.tokens) > length:
        raise PackingError(
            f"episode {episode.episode_id} has {len(episode.tokens)} tokens but rows hold {length}; lower the "
            "rollout's token budget or raise the row length"
        )
    if episode.task.skill not in SKILL_NAMES:
        raise PackingError(f"episode {episode.episode_id}: unknown skill {episode.task.skill!r}; one of {SKILL_NAMES}")
    return len(episode.tokens)

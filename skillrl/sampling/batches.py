"""From the plans of a call to the arrays that the device works on."""

from collections.abc import Sequence

import numpy as np

from skillrl.sampling.scheduler import Plan, Shapes
from skillrl.sampling.step import Batch


def batch_of(plans: list[Plan], shapes: Shapes, width: int, num_pages: int, stop_ids: Sequence[int]) -> Batch:
    """One plan for each replica, padded to the smallest shapes that hold all of them.

    `width` is the number of pages of the longest stream.
    """
    size = next(size for size in shapes.rows if size >= max(len(plan.slots) for plan in plans))
    chunk = next(size for size in shapes.chunks if size >= max(plan.chunk for plan in plans))
    parts = [_arrays(plan, size, chunk, width, num_pages) for plan in plans]
    stacked = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    return Batch(
        **stacked, stop_ids=np.asarray(stop_ids, np.int32), min_active=np.int32(sum(plan.min_active for plan in plans))
    )


def _arrays(plan: Plan, size: int, chunk: int, width: int, num_pages: int) -> dict[str, np.ndarray]:
    slots = plan.slots

    def column(values, dtype=np.int32, padding=0, length=size):
        values = list(values)
        return np.asarray([*values, *[padding] * (length - len(values))], dtype)

    table_AP = np.zeros((size, width), np.int32)
    for row, slot in enumerate(slots):
        table_AP[row, : len(slot.stream.pages)] = slot.stream.pages
    known = [token for slot in slots for token in slot.stream.tokens[slot.start : slot.start + slot.chunk]]
    ends = np.cumsum([0, *(slot.chunk for slot in slots)])
    return {
        "table_SAP": table_AP,
        "copy_from_SA": column(source for source, _ in plan.copies),
        "copy_to_SA": column((target for _, target in plan.copies), padding=num_pages),
        "chunk_ST": column(known, length=chunk),
        "chunk_starts_SA": column(ends, padding=ends[-1], length=size + 1),
        "chunk_lengths_SA": column(slot.start + slot.chunk for slot in slots),
        "chunk_rows_S": np.int32(sum(slot.chunk > 0 for slot in slots)),
        "last_SA": column(slot.stream.tokens[slot.start + slot.chunk] for slot in slots),
        "position_SA": column(slot.start + slot.chunk for slot in slots),
        "steps_SA": column(slot.steps for slot in slots),
        "seed_SA": column(slot.stream.seed for slot in slots),
        "temperature_SA": column((slot.stream.temperature for slot in slots), np.float32, 1.0),
        "top_k_SA": column(slot.stream.top_k for slot in slots),
        "top_p_SA": column((slot.stream.top_p for slot in slots), np.float32, 1.0),
    }

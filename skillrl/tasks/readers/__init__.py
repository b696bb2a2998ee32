"""Readers of public datasets, by name. Each makes records of one schema; `convert` makes tasks of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skillrl.tasks.readers import competitions, directories, swebench, training
from skillrl.tasks.readers.record import Record
from skillrl.tasks.readers.rows import Row, is_on_hub, read_rows


@dataclass(frozen=True)
class Reader:
    """One dataset."""

    read: Callable[[Row], Record]
    # Evaluation sets are never split and never trained on; training sets lose what overlaps with them.
    is_evaluation: bool
    # Of the rows; the repositories keep their own.
    licence: str
    open_rows: Callable[..., Iterator[Row]] = read_rows
    # Split on the hub; empty: "test" of an evaluation set, "train" of a training set.
    hub_split: str = ""

    def rows(self, source: str, part: str = "") -> Iterator[Row]:
        """`part` is a split by the dataset's own name; empty: all of a file or a folder, and of the hub `hub_split`."""
        published = self.hub_split or ("test" if self.is_evaluation else "train")
        return self.open_rows(source, split=part or (published if is_on_hub(source) else ""))


READERS = {
    "swebench": Reader(swebench.read_swebench, True, "MIT", directories.swebench_rows),
    "swt_bench": Reader(swebench.read_swt_bench, True, "MIT"),
    "loc_bench": Reader(swebench.read_loc_bench, True, "Apache-2.0"),
    "harbor": Reader(directories.read_harbor, True, "Apache-2.0", directories.harbor_rows),
    "sec_bench": Reader(directories.read_sec_bench, True, "MIT", hub_split="eval"),
    "mle_bench": Reader(competitions.read_mle_bench, True, "MIT", competitions.mle_rows),
    "swe_smith": Reader(training.read_swe_smith, False, "MIT"),
    "swe_gym": Reader(swebench.read_swe_gym, False, "MIT"),
    "r2e": Reader(training.read_r2e, False, "Apache-2.0"),
    "swe_rebench": Reader(swebench.read_swe_rebench, False, "see its card", hub_split="test"),
    "swe_rebench_v2": Reader(swebench.read_swe_rebench_v2, False, "see its card"),
    "nemo_gym": Reader(training.read_nemo_gym, False, "of the inner dataset"),
}

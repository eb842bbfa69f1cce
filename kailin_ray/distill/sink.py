"""The Ray Data sink that writes blocks of records to files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from kailin_ray.io.files import atomic_file
from kailin_ray.schema import RECORDS


class RecordSink(ray.data.Datasink[None]):
    """Writes each block of records to one Parquet file, atomically.

    The file name is computed from the PMIDs, so a task that Ray repeats writes the same file, not a second one.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> None:
        """Write the blocks of one task to one file."""
        tables = [block for block in blocks if block.num_rows]
        if not tables:
            return
        table = pa.concat_tables(tables).cast(RECORDS)
        pmids = table["pmid"].to_numpy()
        digest = hashlib.sha256(np.sort(pmids).tobytes()).hexdigest()[:16]
        with atomic_file(self._folder / f"{pmids.min():09}-{digest}.parquet") as partial:
            pq.write_table(table, partial, compression="zstd")

"""Abstracts that nothing is trained on: what an agent learned is measured on them."""

import hashlib

ONE_IN = 10


def is_held_out(pmid: int) -> bool:
    """Whether an abstract is held out: one in ten, by a hash of its PMID, so the same in every run and dataset."""
    return int.from_bytes(hashlib.sha256(str(pmid).encode()).digest()[:4]) % ONE_IN == 0

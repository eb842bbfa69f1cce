"""Held-out abstracts: no agent is trained on them, and trained agents are measured on them."""

import hashlib

ONE_IN = 10


def is_held_out(pmid: int) -> bool:
    """Return whether an abstract is held out. One in ten is, by a hash of its PMID, so the same in all datasets."""
    return int.from_bytes(hashlib.sha256(str(pmid).encode()).digest()[:4]) % ONE_IN == 0

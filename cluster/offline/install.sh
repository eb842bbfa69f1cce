#!/usr/bin/env bash
# Install this bundle on a machine without internet: install.sh FOLDER. It needs the Python that the bundle was made for,
# with venv (PYTHON=/path/to/python where PATH has none of that name), and asks no index. Nothing outside FOLDER is
# changed. An installation that was interrupted starts from the beginning. Exit code 2: refused.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
refuse() { echo "install.sh: $*" >&2; exit 2; }
[ $# -eq 1 ] && [ -n "$1" ] && [ "${1#-}" = "$1" ] || refuse "usage: install.sh FOLDER"
[ -f "$here/manifest.json" ] || refuse "manifest.json is missing: this is not a bundle, or not all of it"

wanted=$(sed -n 's/^  "python": "\(3\.[0-9]*\)",$/\1/p' "$here/manifest.json")
python=${PYTHON:-python$wanted}
command -v "$python" >/dev/null || refuse "$python is not on PATH; the bundle is for Python $wanted: PYTHON=/path/to/python install.sh FOLDER"
"$python" -I -c "import ensurepip, venv" 2>/dev/null || refuse "$python has no venv; install its package, as python$wanted-venv"

[ ! -e "$1" ] || [ -d "$1" ] || refuse "$1 is not a folder"
folder=$("$python" -I -c 'import os, sys; print(os.path.abspath(sys.argv[1]))' "$1")
stamp=$folder/installed.json begun=$folder/.kailin_ray.unfinished
if [ -f "$stamp" ] && [ ! -e "$begun" ]; then
  cmp -s "$stamp" "$here/manifest.json" || refuse "$folder holds the installation of another bundle; choose a new folder"
  echo "$folder: installed already"
  exit 0
fi
[ ! -e "$folder" ] || [ -e "$begun" ] || [ -z "$(ls -A "$folder")" ] || refuse "$folder is not empty; choose a new folder"

mkdir -p "$folder"
exec 9>"$begun"
if command -v flock >/dev/null; then flock -n 9 || refuse "$folder: another process is at work on it"; fi
find "$folder" -mindepth 1 -maxdepth 1 ! -name "${begun##*/}" -exec rm -rf {} +

"$python" -I "$here/unpack.py" "$folder/unpacked" || {
  rm "$begun"
  rmdir --ignore-fail-on-non-empty "$folder"
  exit 2
}
echo "Installing ..." >&2
"$python" -I -m venv "$folder/venv"
# No configuration of pip's counts, neither a file's nor the environment's: it could name an index.
PIP_CONFIG_FILE=/dev/null "$folder/venv/bin/python" -I -m pip --isolated --disable-pip-version-check install --quiet --no-index \
  --no-deps --require-hashes --no-cache-dir --find-links "$folder/unpacked/wheels" -r "$here/requirements.lock"
for place in assets models; do
  if [ -d "$folder/unpacked/$place" ]; then mv "$folder/unpacked/$place" "$folder/$place"; fi
done
rm -rf "$folder/unpacked"
cp "$here/bom.json" "$folder/bom.json"
cp "$here/manifest.json" "$stamp.partial"
mv "$stamp.partial" "$stamp"
rm "$begun"

cat <<END
Installed in $folder. Next:
  cd $folder
  . venv/bin/activate
  export HF_HUB_OFFLINE=1
  python -m kailin_ray fetch          # finds the assets in place; then as in README.md, from ingest on
END
if [ -d "$folder/models" ]; then
  echo "Models, as model=chat model.path=...:"
  for model in "$folder"/models/*; do echo "  $model"; done
fi

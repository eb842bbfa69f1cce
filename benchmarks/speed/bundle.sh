#!/usr/bin/env bash
# A bundle for CPUs with the demo's assets, made, checked, installed where no index answers, and the demo from there with
# no network: bundle.sh FOLDER [VENV]. Prints dated lines. What is in FOLDER already is not made again.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: bundle.sh FOLDER [VENV]" >&2; exit 2; }
mkdir -p "$1"
at=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
venv=$(cd "${2:-.venv}" && pwd)
say() { echo "$(date -u +%FT%TZ)  $*"; }
# Where there may be namespaces, no network but the machine's own: Ray's processes speak to one another.
alone=() network="as usual, but no index"
if unshare -rn true 2>/dev/null; then
  alone=(unshare -rn bash -c 'ip link set lo up; exec "$@"' --) network=none
fi
offline() {
  env PIP_NO_INDEX=1 PIP_CONFIG_FILE=/dev/null PIP_INDEX_URL=http://127.0.0.1:1/simple HF_HUB_OFFLINE=1 \
    RAY_USAGE_STATS_ENABLED=0 ${alone[@]+"${alone[@]}"} "$@"
}

say "$(git rev-parse --short HEAD), $(uname -srm), $(nproc) cores; network of the offline steps: $network"
if [ ! -d "$at/bundle" ]; then
  say "bundle"
  "$venv/bin/python" -m kailin_ray bundle out="$at/bundle" part_mib=512
fi
say "sha256sum -c"
(cd "$at/bundle" && sha256sum --quiet --strict -c SHA256SUMS)
say "install"
offline "$at/bundle/install.sh" "$at/there"
du -sh "$at/bundle" "$at/there"

cd "$at/there"
run() { say "$1"; offline venv/bin/python -m kailin_ray "$@"; }
run fetch
run ingest source.path=assets/pubmed20n0014.xml.gz out=demo/corpus
run select corpus=demo/corpus out=demo/documents filters.require_mesh=true
run index documents=demo/documents out=demo/index limit=500
run distill documents=demo/documents index=demo/index mesh=assets/mesh.tsv out=demo/run limit="${LIMIT:-48}" retrieval=brief
[ -d demo/dataset ] || run publish run=demo/run out=demo/dataset
run report run=demo/run examples=1
say "done"

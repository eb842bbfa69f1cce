#!/usr/bin/env bash
# Everything that a GPU must show, unattended and in under ten minutes: gpu_walk.sh OUT
#     LIMIT=800 MINUTES=9.5 DEVICE=gpu SHAPE=8b benchmarks/gpu_walk.sh out
# Run it from a checkout with assets/ and demo/documents, with an interpreter that has the package's libraries (PYTHON,
# python3 by default); no network is needed. The steps come in the order of their worth: what the time does not suffice
# for is skipped and said so. OUT gets a folder and a log for each step, and summary.txt.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-python3} device=${DEVICE:-gpu} limit=${LIMIT:-800} shape=${SHAPE:-8b}
seconds=$(awk "BEGIN { print int(60 * ${MINUTES:-9.5}) }")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 VLLM_CACHE_ROOT=${VLLM_CACHE_ROOT:-$scratch/vllm}
on=cluster=local
[ "$device" = cpu ] || on=cluster=gpu
documents=${DOCUMENTS:-demo/documents}

say() { echo "$(printf '%4d s' "$SECONDS")  $*" | tee -a "$out/summary.txt"; }
# step NAME MOST COMMAND...: at most MOST seconds, and not beyond the end of all.
step() {
  local name=$1 most=$2 left=$((seconds - SECONDS)) began=$SECONDS code
  shift 2
  [ "$left" -lt 20 ] && { say "$name: skipped, no time left"; return 1; }
  timeout -k 10 "$((most < left ? most : left))" "$@" >"$out/$name.log" 2>&1
  code=$?
  say "$name: exit code $code, $((SECONDS - began)) s"
  tail -n 3 "$out/$name.log" | cut -c1-300 | tee -a "$out/summary.txt"
  return "$code"
}
run=("$python" -m kailin_ray)
inputs=(documents="$documents" index="$scratch/index" mesh=assets/mesh.tsv retrieval=brief "$on")

{ nvidia-smi; "$python" -c "import torch, vllm, ray; print(torch.__version__, torch.version.cuda, vllm.__version__, ray.__version__)"; } \
  >"$out/machine.txt" 2>&1

# Encoding: abstracts/s are in the log.
gpus_per_encoder=1
[ "$device" = cpu ] && gpus_per_encoder=0
step index 90 "${run[@]}" index documents="$documents" out="$scratch/index" limit="${INDEX_LIMIT:-5000}" "$on" \
  cluster.num_encoders=1 cluster.gpus_per_encoder=$gpus_per_encoder

# The 8B shape writes the small model's texts at an 8B model's cost.
step upscale 90 "$python" benchmarks/support/upscale.py assets/smollm2-135m-instruct "$scratch/large" --shape "$shape"
large=(model.path="$scratch/large")
[ "$device" = cpu ] && large+=(model.engine.kv_cache_memory_bytes=1073741824)
step bench_large 300 "${run[@]}" bench "${inputs[@]}" "${large[@]}" limit="$limit" out="$out/bench_large"

# The demo's model: the pipeline's own cost is the largest share that it can ever be.
step demo 120 "${run[@]}" distill "${inputs[@]}" limit="${DEMO_LIMIT:-200}" out="$scratch/run"
[ -d "$scratch/run/records" ] && "${run[@]}" report run="$scratch/run" examples=3 >"$out/demo_report.txt" 2>&1
step bench_small 150 "${run[@]}" bench "${inputs[@]}" limit="$limit" out="$out/bench_small"

# Sizes, against what the plan computes; without the ceiling, which takes as long again.
step sweep 240 "${run[@]}" bench "${inputs[@]}" "${large[@]}" limit="$((limit / 2))" out="$out/sweep" bench.bare=false \
  "bench.sweep=${SWEEP:-{max_num_seqs: [256, 1024], kv_cache_dtype: [auto, fp8]\}}"
say "done"

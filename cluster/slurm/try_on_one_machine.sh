#!/bin/bash
# A throw-away Slurm of two nodes on this machine, and the whole walk through it: submitted, drained before the time limit,
# requeued, finished, each document once. Needs Debian's packages slurm-wlm and munge, root, and a finished `make demo`.
#
#   sudo cluster/slurm/try_on_one_machine.sh demo/documents demo/index assets/mesh.tsv 96
set -euo pipefail

documents=$(realpath "$1") index=$(realpath "$2") mesh=$(realpath "$3") limit=${4:-96}
home=$(cd "$(dirname "$0")/../.." && pwd)
for program in munged slurmctld slurmd sbatch; do
    type -P "$program" >/dev/null || { echo "no $program: apt-get install slurm-wlm munge" >&2 && exit 2; }
done
folder=$(mktemp -d /tmp/slurm-XXXXXX)
chmod 755 "$folder"
started=()
ended() {
    [[ ${job:-} ]] && scancel "$job" 2>/dev/null && sleep 5
    kill ${started[@]+"${started[@]}"} 2>/dev/null || true
    wait
    [[ ${keep:-} ]] || rm -rf "$folder"
}
trap ended EXIT

head -c 1024 /dev/urandom >"$folder/munge.key" && chmod 400 "$folder/munge.key"
munged --force --foreground --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munge.pid" \
    --log-file="$folder/munge.log" --seed-file="$folder/munge.seed" &
started+=($!)
host=$(hostname -s)
cat >"$folder/slurm.conf" <<END
ClusterName=try
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=16818 CPUs=2 RealMemory=10000
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=16819 CPUs=2 RealMemory=10000
PartitionName=all Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF=$folder/slurm.conf
mkdir "$folder/state"
slurmctld -D &
started+=($!)
for node in node1 node2; do
    mkdir "$folder/spool-$node"
    slurmd -D -N "$node" &
    started+=($!)
done
until [[ $(sinfo -h -t idle -o %D 2>/dev/null) == 2 ]]; do sleep 1; done
# shellcheck disable=SC2016 # the node's variable
echo "== $(date -u +%FT%TZ): Slurm $(slurmd -V | cut -d' ' -f2), $(srun --nodes=2 --ntasks-per-node=1 bash -c 'echo $SLURMD_NODENAME' | sort | xargs)"

run=$(dirname "$documents")/slurm-$(date -u +%Y%m%dT%H%M%S)
line=(--nodes=2 --cpus-per-task=2 --time=7 --signal=B:USR1@150 "--output=$folder/job.log" -- distill "documents=$documents"
    "index=$index" "mesh=$mesh" "out=$run" "limit=$limit" retrieval=brief cluster.num_engines=2 cluster.num_retrievers=null
    cluster.block_rows=4 cluster.max_concurrent_rows=8 grace_seconds=90)
echo "== what is refused before anything is allocated"
"$home/cluster/slurm/submit.sh" --nodes=2 -- distill documents=/nowhere index=i out=o || true
"$home/cluster/slurm/submit.sh" --nodes=2 -- distill "out=/tmp/x" || true
"$home/cluster/slurm/submit.sh" --nodes=2 --gpus-per-node=1 -- distill cluster=gpu || true

submitted=$("$home/cluster/slurm/submit.sh" "${line[@]}")
echo "== $submitted"
job=${submitted##* }
state='' state_and_restarts=''
while [[ $state != COMPLETED && $state != FAILED && $state != TIMEOUT && $state != CANCELLED ]]; do
    now=$(scontrol show job "$job" | grep -oP 'JobState=\K\S+|Restarts=\K\S+' | xargs)
    if [[ $now != "$state_and_restarts" ]]; then
        echo "$(date -u +%T) job $job: $now"
        state_and_restarts=$now
    fi
    state=${now%% *}
    sleep 2
done
echo "== the job's log"
grep -E '^kailin_ray|^stopped|abstracts to distil|stopping' "$folder/job.log" | tr '\r' '\n' | grep -vE 'abstracts/s' | cat
echo "== what came out"
"$home/.venv/bin/python" - "$run" "$limit" <<'END'
import sys
from collections import Counter
from pathlib import Path

from kailin_ray.io.files import read_json
from kailin_ray.dataset.records import records

run, limit = Path(sys.argv[1]), int(sys.argv[2])
rows = records(run).to_table(columns=["pmid", "status"])
print(f"{len(rows)} rows of {len(set(rows['pmid'].to_pylist()))} documents, {limit} asked for", Counter(rows["status"].to_pylist()))
manifest = read_json(run / "manifest.json")
print("sessions", manifest["sessions"], "engines", {name: stage["starts"] for name, stage in manifest["engines"].items()})
assert len(rows) == len(set(rows["pmid"].to_pylist())) == limit
END

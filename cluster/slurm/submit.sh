#!/bin/bash
# Checks what a job would die of, then submits it: cluster/slurm/submit.sh [sbatch options] -- <command> [key=value ...]
#
#   cluster/slurm/submit.sh --nodes=4 --gpus-per-node=8 --time=24:00:00 -- distill cluster=gpu documents=... out=...
set -euo pipefail

refuse() {
    echo "kailin_ray: $*" >&2
    exit 2
}

options=()
while (($#)) && [[ $1 != -- ]]; do
    options+=("$1")
    shift
done
(($# > 1)) || refuse "usage: $0 [sbatch options] -- <command> [key=value ...]"
shift

home=${KAILIN_RAY_HOME:-$(cd "$(dirname "$0")/../.." && pwd)}
export KAILIN_RAY_HOME=$home
type -P sbatch >/dev/null || refuse "no sbatch here: run this on a login node of a Slurm cluster"
if [[ -n ${KAILIN_RAY_IMAGE:-} ]]; then
    type -P apptainer >/dev/null || refuse "KAILIN_RAY_IMAGE is set, and there is no apptainer here"
    [[ -r $KAILIN_RAY_IMAGE ]] || refuse "KAILIN_RAY_IMAGE: cannot read $KAILIN_RAY_IMAGE"
    python=(apptainer exec --bind "$home" --pwd "$home" "$KAILIN_RAY_IMAGE" python)
else
    python=("${KAILIN_RAY_VENV:-$home/.venv}/bin/python")
    [[ -x ${python[0]} ]] || refuse "no virtual environment at ${python[0]%/bin/python}: make setup, or KAILIN_RAY_VENV, or KAILIN_RAY_IMAGE"
fi
[[ -w $home ]] || refuse "KAILIN_RAY_HOME: cannot write to $home, where the job's log and token go"

several=
gpus=
for option in ${options[@]+"${options[@]}"}; do # bash before 4.4 calls an empty array unbound
    case $option in
    -N1 | --nodes=1) ;;
    -N* | --nodes*) several=1 ;;
    --gpus* | --gres=gpu* | -G*) gpus=1 ;;
    esac
done
cd "$home"
for text in "${@:2}"; do
    key=${text%%=*} path=${text#*=}
    [[ $path == *://* || $path == null ]] && continue
    case $key in
    documents | index | mesh | corpus | run | source.path | model.path)
        [[ $key == model.path && $path != /* && ! -e $path ]] && continue # a hub id
        [[ -r $path ]] || refuse "$key: cannot read $path"
        ;;
    out)
        parent=$(dirname "$path")
        while [[ ! -e $parent ]]; do parent=$(dirname "$parent"); done
        [[ -w $parent ]] || refuse "out: cannot write to $parent"
        [[ $several && $(realpath -m "$path") =~ ^/(tmp|var/tmp|dev/shm)/ ]] && refuse "out: $path is no path that all nodes share"
        ;;
    esac
done
if [[ " $* " == *" cluster=gpu "* || $gpus ]]; then
    [[ $gpus ]] || refuse "cluster=gpu, and no GPUs are asked of Slurm: add --gpus-per-node=8 or so before --"
    sinfo -h -o %G | grep -q gpu || refuse "GPUs are asked for, and no partition of this cluster has any (sinfo -o %G)"
fi
"${python[@]}" -m kailin_ray "$@" --cfg job >/dev/null || exit 2

exec sbatch ${options[@]+"${options[@]}"} cluster/slurm/kailin_ray.sbatch "$@"

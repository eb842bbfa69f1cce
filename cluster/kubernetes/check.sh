#!/usr/bin/env bash
# What an overlay needs of the cluster, before anything is applied: check.sh OVERLAY (cpu-trial, one-gpu, ...). One line for each
# thing that is missing, and exit code 2; 0 where nothing is.
#
# GROWS_FROM_ZERO=yes: the node pool with the GPUs has no node until one is asked for.
# TAG_IS_ENOUGH=yes: an image may be named by its tag alone, which its registry can give to another image later.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
overlays=$(cd "$here/overlays" && printf '%s ' *)
missing=0
refuse() { echo "$*" >&2; missing=1; }
stop() { refuse "$@"; exit 2; }

[ $# -eq 1 ] || stop "check.sh OVERLAY: one of $overlays"
overlay=$here/overlays/$1
[ -d "$overlay" ] || stop "overlay: $1 is none; allowed: $overlays"
command -v kubectl >/dev/null || stop "kubectl: not on PATH; https://kubernetes.io/docs/tasks/tools"
manifest=$(kubectl kustomize "$overlay") || stop "overlay: $1 does not render"
kubectl version --request-timeout=10s >/dev/null 2>&1 ||
  stop "cluster: kubectl reaches none; see: kubectl config current-context"

# The first value of a key in the rendered manifest.
of() { sed -n "s|^ *\(- \)\{0,1\}$1: *\"\{0,1\}\([^\"]*\)\"\{0,1\}\$|\2|p" <<<"$manifest" | sed -n 1p; }
get() { kubectl get "$@" 2>/dev/null; }
namespace=$(of namespace) secret=$(of secretName) gpus=$(of nvidia.com/gpu)
kind=$(sed -n "s/^kind: \(Ray.*\)/\1/p" <<<"$manifest" | sed -n 1p)

# Of a definition also whether it knows the newest of the fields that are used: KubeRay 1.6 brought it.
plural=$(tr '[:upper:]' '[:lower:]' <<<"$kind")s.ray.io
if ! newest=$(get crd "$plural" -o 'jsonpath={..authOptions.properties.secretName.type}'); then
  refuse "KubeRay: $plural is not defined, or you may not look; install it: helm install kuberay-operator kuberay/kuberay-operator"
elif [ -z "$newest" ]; then
  refuse "KubeRay: its $plural has no authOptions.secretName; 1.6 or later is needed, its definitions too, which helm upgrade leaves"
fi

if ! get namespace "$namespace" >/dev/null; then
  refuse "namespace: $namespace is missing: kubectl create namespace $namespace"
else
  if ! get secret "$secret" -n "$namespace" -o 'jsonpath={.data.auth_token}' | grep -q .; then
    refuse "secret: $secret with the key auth_token is missing: kubectl -n $namespace create secret generic $secret" \
      "--from-literal=auth_token=\"\$(openssl rand -hex 32)\""
  fi
  while read -r claim; do
    if ! state=$(get pvc "$claim" -n "$namespace" -o 'jsonpath={.status.phase} {.spec.storageClassName}'); then
      refuse "volume: $claim is missing: kubectl apply -k $here/storage"
      continue
    fi
    read -r phase class <<<"$state"
    if [ "$phase" = Lost ]; then
      refuse "volume: $claim is lost"
    elif [ "$phase" != Bound ] && [ -z "$class" ]; then
      refuse "volume: $claim is not bound, and the cluster has no default storage class: name one in $here/storage/claims.yaml"
    elif [ "$phase" != Bound ] && ! get storageclass "$class" >/dev/null; then
      refuse "volume: $claim is not bound, and its storage class $class does not exist"
    fi
  done < <(sed -n 's/^ *claimName: *//p' <<<"$manifest" | sort -u)
fi

if [ -n "$gpus" ] && [ "${GROWS_FROM_ZERO:-}" != yes ]; then
  per_node='jsonpath={range .items[*]}{.status.allocatable.nvidia\.com/gpu}{"\n"}{end}'
  most=$(get nodes -o "$per_node" | sort -n | tail -n 1) || true
  [ "${most:-0}" -ge "$gpus" ] || refuse "GPUs: no node is seen to offer $gpus as nvidia.com/gpu (most: ${most:-0});" \
    "install NVIDIA's device plugin, or set GROWS_FROM_ZERO=yes where a node pool starts empty"
fi

while read -r image; do
  case $image in
    registry.example/*) refuse "image: $image is a place-holder; set newName, and digest in place of newTag, in $overlay/kustomization.yaml" ;;
    *@sha256:*) ;;
    *)
      [ "${TAG_IS_ENOUGH:-}" = yes ] || refuse "image: $image has no digest; set digest: sha256:..., which docker push prints," \
        "in place of newTag in $overlay/kustomization.yaml, or TAG_IS_ENOUGH=yes"
      ;;
  esac
done < <(sed -n 's/^ *\(- \)\{0,1\}image: *//p' <<<"$manifest" | sort -u)

[ "$missing" = 0 ] || exit 2
if ! said=$(kubectl apply --dry-run=server -k "$overlay" 2>&1); then
  stop "cluster: it would not take the manifests: $(tail -n 1 <<<"$said")"
fi
echo "$1: the cluster has what it needs; next: kubectl apply -k $overlay"

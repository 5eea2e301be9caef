#!/usr/bin/env bash
# From three members to five: stops all nodes, writes the new members into the three volumes, starts five.
#
#   k8s/scripts/three-to-five.sh [OVERLAY]     OVERLAY has five members; without it, k8s/overlays/five
#
# Clients are refused until the five run. If it is interrupted, run it again: each step may be repeated. Until the jobs
# have begun, kubectl -n falconq scale statefulset/falconq --replicas=3 goes back; afterwards there is no way back,
# because members can be added, not removed.
set -euo pipefail

k8s=$(cd "$(dirname "$0")/.." && pwd)
overlay=${1:-$k8s/overlays/five}
timeout=${TIMEOUT:-300s}
nodes=app.kubernetes.io/name=falconq
jobs=app.kubernetes.io/name=falconq-reconfigure

k() { kubectl -n falconq "$@"; }
say() { printf '== %s\n' "$*"; }

replicas=$(k get statefulset/falconq -o 'jsonpath={.spec.replicas}')
image=$(k get statefulset/falconq -o 'jsonpath={.spec.template.spec.containers[0].image}')
case $replicas in
  3) ;;
  0) say "all nodes are stopped already: going on" ;;
  *)
    echo "statefulset/falconq has $replicas replicas; this is for a cluster of three" >&2
    exit 1
    ;;
esac

read -r -p "All nodes of the cluster will be stopped for a minute or two. Type five to go on: " answer
if [ "$answer" != five ]; then
  echo "Nothing was changed."
  exit 1
fi

say "stopping all nodes"
k scale statefulset/falconq --replicas=0
k wait --for=delete pod -l "$nodes" "--timeout=$timeout"

say "writing the new members into the volumes"
k delete job,networkpolicy -l "$jobs" --ignore-not-found
# The image that the nodes ran, wherever it comes from.
kubectl kustomize "$k8s/three-to-five" | sed "s|image: falconq-cluster.*|image: $image|" | kubectl apply -f -
k wait --for=condition=complete job -l "$jobs" "--timeout=$timeout"
k delete job,networkpolicy -l "$jobs"

say "starting five nodes"
kubectl apply -k "$overlay"
k rollout status statefulset/falconq "--timeout=$timeout"
say "five members serve"

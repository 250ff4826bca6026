#!/bin/bash
# All that docs/performance.md asks of one GPU, in one call.
#
#   bench/gpu.sh [GROUP ...]       default: start offline mixed http fp8
#   GROUP: kernels offline mixed http fp8 fp8_kv start profile tests all
#
# RUNS=3        measurements of each figure (their median counts)
# SECONDS_MAX=580  after so many seconds what still runs is ended; what was measured by then is kept
# PYTHON=python3, API_WORKERS=4
# Figures go to bench/results/engine-CARD.json, the kernels' to $OUT (default: bench/results/../out); a table beside
# the peer's figures is printed at the end.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
runs=${RUNS:-3}
most=${SECONDS_MAX:-580}
out=${OUT:-bench/out}
groups=("${@:-}")
[ -n "${groups[0]}" ] || groups=(start offline mixed http fp8)
[ "${groups[0]}" != all ] || groups=(tests kernels start offline mixed http fp8 profile)
export PYTHONPATH="$PWD/engine:$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
mkdir -p "$out"

has() { [[ " ${groups[*]} " == *" $1 "* ]]; }
for group in "${groups[@]}"; do
  case $group in
    kernels|offline|mixed|http|fp8|fp8_kv|start|profile|tests) ;;
    *) echo "unknown group $group; known are kernels offline mixed http fp8 fp8_kv start profile tests all" >&2; exit 2 ;;
  esac
done
if has tests; then "$python" bench/needs.py --tests || exit 3; else "$python" bench/needs.py || exit 3; fi
"$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || { echo "no GPU is seen here" >&2; exit 3; }

left() { echo $((most - SECONDS)); }
failed=()
step() { # NAME COMMAND...: run within the time that is left
  local name=$1; shift
  local begun=$SECONDS
  if [ "$(left)" -lt 5 ]; then failed+=("$name: no time left"); return; fi
  echo "== $name ($((SECONDS))s)"
  timeout -k 10 "$(left)" "$@" || failed+=("$name: exit code $?")
  echo "== $name took $((SECONDS - begun))s"
}

has tests && step tests "$python" -m pytest tests/engine -q -x --maxfail=20 -n 4 -p no:cacheprovider -m "gpu or kernels"
has kernels && step kernels "$python" bench/kernels.py --out "$out/kernels.json"
has kernels && step "kernels in fp8" "$python" bench/kernels_fp8.py --out "$out/kernels_fp8.json"
measure() { # GROUP...: a process of its own, so that the next one finds the GPU's memory free
  step "$*" "$python" bench/gpu.py --runs "$runs" --api-workers "${API_WORKERS:-4}" --only "$@"
}
has start && measure start
has http && measure http
in_process=()
for group in offline mixed; do has "$group" && in_process+=("$group"); done
[ ${#in_process[@]} -eq 0 ] || measure "${in_process[@]}"
has fp8 && measure fp8
has fp8_kv && measure fp8_kv
has profile && step profile "$python" bench/gpu_profile.py --out "$out/profile.txt"
"$python" bench/gpu_table.py
cp bench/results/engine-*.json "$out"/ 2>/dev/null
echo "all in ${SECONDS}s"
for fault in "${failed[@]:-}"; do [ -z "$fault" ] || echo "FAILED $fault"; done
[ ${#failed[@]} -eq 0 ]

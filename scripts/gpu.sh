#!/usr/bin/env bash
# Measures all that only a GPU can show, on one card, in at most nine minutes.
#
#     bash scripts/gpu.sh [FOLDER]          # writes lines of JSON there; default docs/results
#     bash scripts/gpu.sh --tiny [FOLDER]   # tries every part on the CPU, with tiny models
#
# Every part has a limit in seconds, and ends there. Its lines are written as it goes: whatever was
# measured by then stays. FOLDER/gpu.jsonl gets a line for each part: its seconds and its exit
# status, 124 for a part that met its limit. FOLDER/gpu.log has all output. A part whose lines are
# there already measures only what is missing. Variables: PYTHON is the interpreter, by default that
# of .venv or the first in PATH; SLOWER multiplies all limits, for a busy machine.
set -uo pipefail
for word in "$@"; do
    case "$word" in --help | -h)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    esac
done
root=$(cd "$(dirname "$0")/.." && pwd)
device=(--device cuda)
kernels="gpu"
remembered=""
if [ "${1:-}" = --tiny ]; then
    device=(--device cpu --tiny)
    kernels="not gpu" # the same kernels, in the interpreter
    remembered="^weight, BERT" # each of these models needs a process of its own there
    shift
fi
out=$(realpath -m "${1:-$root/docs/results}")
mkdir -p "$out"
cd "$root" || exit 1
default=python3
[ -x .venv/bin/python ] && default=.venv/bin/python
python=${PYTHON:-$default}
export PYTHONPATH=$root:$root/scripts${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
slower=${SLOWER:-1}
deadline=$((530 * slower))
failed=0

# part NAME LIMIT COMMAND... runs a part within its limit and what is left of all time.
part() {
    local name=$1 limit=$(($2 * slower)) left=$((deadline - SECONDS)) started=$SECONDS status
    shift 2
    [ "$limit" -gt "$left" ] && limit=$left
    if [ "$limit" -lt 10 ]; then
        status=124
    else
        echo "== $name, at most $limit s: $*" | tee -a "$out/gpu.log"
        timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$out/gpu.log"
        status=${PIPESTATUS[0]}
    fi
    printf '{"part": "%s", "seconds": %d, "limit": %d, "status": %d}\n' \
        "$name" $((SECONDS - started)) "$limit" "$status" >>"$out/gpu.jsonl"
    [ "$status" = 0 ] || failed=1
}
steps() { # NAME LIMIT EXPRESSION OPTIONS...
    local name=$1 limit=$2 only=$3
    shift 3
    part "$name" "$limit" "$python" scripts/bench_training.py "${device[@]}" --results "$out" \
        --rounds "${ROUNDS:-24}" --only "$only" "$@"
}
forwards() { # NAME LIMIT OPTIONS...
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$python" scripts/bench_inference.py "${device[@]}" --results "$out" \
        --precision bfloat16 "$@"
}

# What an aim is for comes first, what compiles for long last.
part kernels 90 "$python" -m pytest -q -p no:cacheprovider -m "$kernels" tests/kernels/test_cuda.py
steps "BERT-base, eager" 40 "BERT-base" --suite cuda
steps "Llama, eager" 45 "^(weight|unit), Llama" --suite cuda
steps "memory" 50 "$remembered" --memory
steps "BERT-base, compiled" 80 "^(weight|unit), BERT" --suite cuda_compiled
steps "Llama, compiled" 80 "^weight, Llama" --suite cuda_compiled
steps "FSDP2 on one rank" 35 "^weight" --suite cuda_fsdp2
forwards "latency" 40 --sizes 1x128 8x128 64x128 --rounds "${ROUNDS:-15}"
forwards "generation" 50 --generate --rounds "${ROUNDS:-3}"
# With whatever time is left:
steps "Llama, eager, rivals" 45 "(port|parametrize), Llama" --suite cuda
steps "BERT-base, compiled, rivals" 80 "(port|parametrize), BERT" --suite cuda_compiled
steps "MiniLM, eager" 30 "MiniLM" --suite cuda
steps "FSDP2 on one rank, units" 35 "^unit" --suite cuda_fsdp2
steps "Llama, compiled, units" 80 "^unit, Llama" --suite cuda_compiled
steps "Llama, compiled, rivals" 80 "(port|parametrize), Llama" --suite cuda_compiled
exit $failed

#!/usr/bin/env bash
# All that is measured on one NVIDIA GPU, in at most six minutes, on a machine with CUDA, JAX and PyTorch of its own and
# no package registry. `make card-wheels` collects in wheels/ what it lacks, and prepares data and the CPU's figures there;
# carry that folder with the checkout.
#
#   benchmarks/card.sh [OUT]            figures are printed as they are known; OUT keeps them, the logs and a profile
#   TINY=1 benchmarks/card.sh [OUT]     tiny sizes, on any device: a rehearsal, with ten times as much time
#   CARD_SECONDS=300 CARD_PYTHON=python3.12
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(mkdir -p "${1:-card}" && cd "${1:-card}" && pwd)
PYTHON=${CARD_PYTHON:-python3}
TINY_FLAG=${TINY:+--tiny} PATIENCE=${TINY:+10}
SECONDS_IN_ALL=$((${CARD_SECONDS:-345} * ${PATIENCE:-1}))
SITE=$(mktemp -d) WORK=$(mktemp -d)
trap 'rm -rf "$SITE" "$WORK"' EXIT
begun=$(date +%s)
export CARD_FIGURES=$OUT/figures.jsonl CARD_END=$((begun + SECONDS_IN_ALL - 15)) PYTHONPATH=$SITE:$PWD PYTHONUNBUFFERED=1
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 WANDB_MODE=disabled TF_CPP_MIN_LOG_LEVEL=2
rm -f "$CARD_FIGURES"

# part NAME SECONDS COMMAND...: a log of its own, a line when it fails. Nothing runs into the 15 s for the profile.
part() {
    local name=$1 limit=$(($2 * ${PATIENCE:-1})) left=$((CARD_END - $(date +%s)))
    shift 2
    if [ "$left" -lt 10 ]; then echo "$name: not run: no time left"; return; fi
    timeout --kill-after=5 $((left < limit ? left : limit)) "$@" 2>"$OUT/$name.log"
    local status=$?
    [ $status -eq 0 ] || echo "$name: exit code $status; the end of its log: $(tail -n 3 "$OUT/$name.log" | tr '\n' ' ' | cut -c1-600)"
    echo "# $name took until $(($(date +%s) - begun)) s"
}

"$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$SITE" wheels/*.whl || exit 1
"$PYTHON" - <<'PY'
import platform, jax, transformers, torch
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"# {device}; Python {platform.python_version()}, JAX {jax.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
PY

cp -r wheels/prepared "$WORK" || exit 1
DATA=$WORK/prepared
if [ -n "$TINY_FLAG" ]; then ROWS=2 PAIRS=4 FITS=llama_96m; else ROWS=8 PAIRS=16 FITS=llama_1b; fi
part attention 70 "$PYTHON" benchmarks/gpu_checks.py attention
part compare 50 "$PYTHON" benchmarks/gpu_checks.py compare "$DATA"
part fit 60 "$PYTHON" benchmarks/fit.py "$FITS"
part sft 100 "$PYTHON" benchmarks/gpu_sft.py default/save_products/$ROWS default/recompute/$ROWS jax_flash/recompute/$ROWS \
    --profile "$OUT/profile" $TINY_FLAG
part trl_sft 70 "$PYTHON" benchmarks/peers/trl_gpu.py sft sdpa/mixed/$ROWS flex_attention/mixed/$ROWS \
    --folder "$DATA" $TINY_FLAG
part dpo 45 "$PYTHON" benchmarks/gpu_dpo.py "$DATA" default/save_products/$PAIRS $TINY_FLAG
part trl_dpo 40 "$PYTHON" benchmarks/peers/trl_gpu.py dpo sdpa/mixed/$PAIRS --folder "$DATA" $TINY_FLAG
part more_sft 200 "$PYTHON" benchmarks/gpu_sft.py levanter/recompute/$ROWS default/recompute/$((2 * ROWS)) \
    default/save_attention/$ROWS default/save_products/$((ROWS / 2)) default/none/$((ROWS / 2)) default/offload/$ROWS --profile "$OUT/profile" $TINY_FLAG
timeout 30 "$PYTHON" benchmarks/best_profile.py "$OUT/profile" 2>"$OUT/kernels.log" || tail -n 3 "$OUT/kernels.log"
echo "# all took $(($(date +%s) - begun)) s"

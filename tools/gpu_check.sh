#!/usr/bin/env bash
# Run everything that needs a CUDA device: the tests marked gpu and, with --benchmark DIR, the benchmark, as JSON.
#
#     tools/gpu_check.sh                          # about 5 minutes; PYTHON=... takes another interpreter
#     tools/gpu_check.sh --benchmark figures      # and the benchmark of docs/benchmarks.md
#     tools/gpu_check.sh -k 'parity and gfl'      # hands other arguments to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
FIGURES=
if [ "${1:-}" = --benchmark ]; then FIGURES=$(mkdir -p "$2" && cd "$2" && pwd); shift 2; fi

"$PYTHON" -c 'import torch; assert torch.cuda.is_available(), f"PyTorch {torch.__version__} finds no CUDA device"'
"$PYTHON" -m pytest -m gpu -q "$@"
if [ -z "$FIGURES" ]; then exit; fi

FAST=configs/gfl/gfl_r50_fpn_1x_coco_fast.py
measure() { echo "== $1"; "$PYTHON" tools/benchmark.py "${@:2}" --device cuda --json "$FIGURES/$1.json"; }
measure head_fp32 head --batch 16 --size 800 1344
measure head_bf16 head --batch 16 --size 800 1344 --amp
GFL_TRITON=0 measure head_bf16_plain head --batch 16 --size 800 1344 --amp --gts 10
SHARED="--batch 16 --size 800 1333 --gts 10 --rounds 10"
measure train train $SHARED
measure train_amp train $SHARED --amp
for against in stock stock-amp; do
  measure "train_fast_against_$against" train "$FAST" $SHARED --against "$against"
done
measure train_fast_cudnn_benchmark train "$FAST" $SHARED --against stock --cfg-options env_cfg.cudnn_benchmark=True
for batch in 1 16; do
  measure "infer_$batch" infer --batch "$batch" --size 800 1333
  measure "infer_amp_$batch" infer --batch "$batch" --size 800 1333 --amp
done

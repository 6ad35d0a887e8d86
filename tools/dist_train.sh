#!/usr/bin/env bash
# Train on several devices, of one or several machines.
#   tools/dist_train.sh CONFIG DEVICES [options of tools/train.py]
# On each of several machines, with the first one's address:
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/dist_train.sh CONFIG DEVICES
# When a process dies all are started again, MAX_RESTARTS times (3), and go on from the last checkpoint by themselves.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,6s/^# //p' "$0" >&2; exit 2; fi
config=$1 devices=$2
shift 2
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$devices" --max_restarts="${MAX_RESTARTS:-3}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"

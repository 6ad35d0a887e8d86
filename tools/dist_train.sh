#!/usr/bin/env bash
# Train on several devices, of one or several machines.
#   tools/dist_train.sh CONFIG DEVICES [options of tools/train.py]
# On each of several machines, with the first one's address:
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/dist_train.sh CONFIG DEVICES
# When a process dies all are started again, MAX_RESTARTS times (3), and go on from the last checkpoint by themselves.
# Exit status as of tools/train.py: after a mistake of the user's (2), a signal (75) or Ctrl-C (130) nothing is restarted.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,7s/^# //p' "$0" >&2; exit 2; fi
config=$1 devices=$2
shift 2
# A new store for each start, by c10d: a shared one hands a rank that is started again the addresses of the dead.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
[ "${NODE_RANK:-0}" = 0 ] && host=true || host=false
[ "${NNODES:-1}" = 1 ] && local=--local_addr=127.0.0.1 || local=  # a machine alone need not know its name
exec "${PYTHON:-python}" "$(dirname "$0")/launch.py" \
    --nnodes="${NNODES:-1}" --nproc_per_node="$devices" --max_restarts="${MAX_RESTARTS:-3}" \
    --rdzv_backend=c10d --rdzv_endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}" --rdzv_conf="is_host=$host" $local \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"

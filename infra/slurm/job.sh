#!/bin/bash
#SBATCH --job-name=marin-sft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=B:TERM@120
#
#   export MARIN_SFT_PREFIX=/shared/marin_sft        # a path, or gs:// or s3://, that all nodes see
#   export MARIN_SFT_NETWORK=ib0                     # the network card between nodes; unless it is the first
#   source .venv/bin/activate                        # `ray` and `python` of the same environment on all nodes
#   sbatch --nodes=4 --gpus-per-node=8 --time=12:00:00 infra/slurm/job.sh python experiments/quickstart.py
#
# Starts Ray on all nodes of the job, runs the command on the first, and ends exactly what it started. 120 seconds before
# the time is up, running steps save a checkpoint; submit the same job again and it goes on from there.
# shellcheck disable=SC2329  # traps call the functions
set -euo pipefail

if [ "$#" = 0 ]; then
  echo "no command: sbatch [options] $0 python experiments/quickstart.py" >&2
  exit 2
fi
: "${SLURM_JOB_ID:?this is a batch script: sbatch [options] $0 COMMAND}"
: "${MARIN_SFT_PREFIX:?set it to a path that all nodes see, and export it}"

# Settings of Ray, which `make infra` writes.
export RAY_health_check_initial_delay_ms=1000
export RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=3000
export RAY_health_check_failure_threshold=3
export RAY_grpc_client_keepalive_time_ms=5000
export RAY_grpc_client_keepalive_timeout_ms=5000
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=150

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# This script runs on the first node.
if [ -n "${MARIN_SFT_NETWORK:-}" ]; then
  address=$(ip -4 -oneline address show dev "$MARIN_SFT_NETWORK" | awk '{ split($4, parts, "/"); print parts[1]; exit }')
else
  address=$(hostname --all-ip-addresses | awk '{ print $1 }')
fi

# Ten ports of this job's own, which other jobs on the nodes do not use.
port=$((20000 + SLURM_JOB_ID % 1000 * 10))
ports=(
  "--dashboard-agent-listen-port=$((port + 3))" "--metrics-export-port=$((port + 4))"
  "--dashboard-agent-grpc-port=$((port + 5))" "--runtime-env-agent-port=$((port + 6))"
  "--node-manager-port=$((port + 7))" "--object-manager-port=$((port + 8))"
)

# Sockets and logs of this job's own. The token is readable only by its user, on all nodes.
export RAY_TMPDIR=/tmp/marin_sft-$SLURM_JOB_ID
export RAY_AUTH_TOKEN_PATH=${MARIN_SFT_TOKENS:-$HOME/.marin_sft}/ray-token-$SLURM_JOB_ID
mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")

workers='' head='' driver=''

start() { # the nodes' option, their number, and what `ray start` is given
  srun "$1" --nodes="$2" --ntasks="$2" --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=0 \
    ray start --block --temp-dir="$RAY_TMPDIR" "${ports[@]}" "${@:3}" &
}

teardown() { # workers first: they report to the head that they end
  trap - TERM INT EXIT
  for step in $driver $workers $head; do
    kill -TERM "$step" 2> /dev/null || true
    wait "$step" 2> /dev/null || true
  done
  srun --ntasks-per-node=1 --overlap rm -rf "$RAY_TMPDIR" || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
}

warn() { # the job's time is up, or Slurm takes its nodes: steps save, and their nodes end when they are done
  kill -TERM "$driver" 2> /dev/null || true # a launch lets its steps save, and starts no more
  python -m marin_sft.run.draining --address="$address:$port" --all --wait --seconds=90 \
    --message="Slurm ends job $SLURM_JOB_ID" || true
  teardown
  exit 143
}

trap teardown EXIT
trap warn TERM INT

start "--nodelist=$first" 1 --head --node-ip-address="$address" --port="$port" \
  --dashboard-host=127.0.0.1 --dashboard-port="$((port + 1))" --ray-client-server-port="$((port + 2))"
head=$!
until (exec 3<> "/dev/tcp/$address/$port") 2> /dev/null; do
  kill -0 "$head"
  sleep 1
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  start "--exclude=$first" "$((SLURM_JOB_NUM_NODES - 1))" --address="$address:$port"
  workers=$!
fi

RAY_ADDRESS="$address:$port" "$@" &
driver=$!
status=0
wait "$driver" || status=$?
driver=''
exit "$status"

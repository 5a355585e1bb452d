#!/bin/bash
# Written and submitted by `lumbre launch`; its folder is where sbatch was called.
#SBATCH --job-name=bert
#SBATCH --output=2-pretrain-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --export=WANDB_API_KEY,WANDB_BASE_URL,HF_TOKEN
set -u

run=/data/runs/bert
folders=(/data/launches/bert /data/runs/bert)
job=(pretrain bert.yaml train.steps=9)

step=
stopping=
# Slurm asks before the time limit, `lumbre launch cancel` at any time: the run saves and ends with 75.
trap 'stopping=1; [[ -z $step ]] || kill -USR1 "$step"' USR1
trap : TERM # reaches the job's steps by itself
say() { echo "launch: $*" >&2; }
restarts=${SLURM_RESTART_COUNT:-0}
say "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restart $restarts"

export OMP_NUM_THREADS=4
cd -- /data || exit 2

each=(--export=ALL --ntasks-per-node=1 --cpus-per-task=16 --kill-on-bad-exit=0 --wait=3600)
mkdir -p -- "${folders[@]}"
nodes_see() { timeout 300 srun "${each[@]}" ls -d -- "${folders[@]}" /opt/lumbre/bin/python >/dev/null; }
nodes_see
status=$?
if ((status == 2)); then
  say "the nodes named above lack these paths: a launch needs folders that all nodes share"
  exit 2
fi

# Ports of jobs on the same node begin at different numbers, below those that the system gives out itself.
port=$((12000 + SLURM_JOB_ID * 7 % 20000))
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do ((port += 1)); done
rendezvous=(
  --nnodes=2 --rdzv-backend=c10d
  "--rdzv-endpoint=$(hostname):$port" "--rdzv-id=$SLURM_JOB_ID.$restarts"
)

if [[ $stopping ]]; then
  status=75
elif ((status == 0)); then
  since=$(date +%s)
  srun "${each[@]}" /opt/lumbre/bin/python -m lumbre.elastic "${rendezvous[@]}" --nproc-per-node=4 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=3600 -m lumbre.cli "${job[@]}" &
  step=$!
  while kill -0 "$step" 2>/dev/null; do wait "$step"; done # a signal ends the wait, not the step
  wait "$step"
  status=$?
  step=
  /opt/lumbre/bin/python -m lumbre.cli launch outcome "$run" "$since"
  status=$?
  # Stopped before there was anything to save.
  if ((status != 0 && status != 2)) && [[ $stopping ]]; then status=75; fi
fi

# Slurm takes a job back from a node that is lost, once it has noticed.
if ((status != 0 && status != 2 && status != 75 && status != 76)) && ! nodes_see; then
  say "a node does not answer: waiting for Slurm to start the job again without it"
  sleep 900 &
  wait $!
  status=76
fi

if ((status == 75 || status == 76)); then
  if ((restarts >= 100)); then
    say "restarted $restarts times (max_restarts); launch it again to go on"
  elif [[ $(scontrol show job -o "$SLURM_JOB_ID") == *\ JobState=RUNNING\ *\ Requeue=1\ * ]]; then
    say "asking Slurm to start it again"
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$status"

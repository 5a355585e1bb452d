#!/bin/sh
# Run on each of 2 hosts; NODES, NODE_RANK, PROCESSES, MASTER_ADDR, MASTER_PORT and
# secrets come over ssh.
cd -- '/share/my project' || exit
export PYTHONUNBUFFERED=1
export NCCL_DEBUG='it'"'"'s INFO'
exec '/opt/my python/bin/python' -m lumbre.elastic --nnodes="$NODES" --node-rank="$NODE_RANK" --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" --nproc-per-node="$PROCESSES" --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=600 -m lumbre.cli pretrain configs/bert.yaml 'notes='"'"'a b'"'"' $(c)'

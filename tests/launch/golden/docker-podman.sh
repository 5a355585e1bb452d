#!/bin/sh
set -eu

podman run --detach --init \
  --name=lumbre-bert-prepare-ed2e6d8e \
  --userns=keep-id \
  --user=1000:1000 \
  --workdir=/data \
  --mount=type=bind,source=/data,target=/data \
  --shm-size=8g \
  --stop-timeout=3600 \
  --env=OMP_NUM_THREADS=3 \
  --entrypoint=python lumbre:cpu -m lumbre.cli prepare bert.yaml
test "$(podman wait lumbre-bert-prepare-ed2e6d8e)" -eq 0

podman run --detach --init \
  --name=lumbre-bert-0343d88a \
  --userns=keep-id \
  --user=1000:1000 \
  --workdir=/data \
  --mount=type=bind,source=/data,target=/data \
  --device=nvidia.com/gpu=0 \
  --device=nvidia.com/gpu=1 \
  --shm-size=8g \
  --stop-timeout=3600 \
  --env=OMP_NUM_THREADS=3 \
  --entrypoint=python lumbre:cpu -m lumbre.elastic --standalone --nproc-per-node=2 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=3600 -m lumbre.cli pretrain bert.yaml train.steps=9
test "$(podman wait lumbre-bert-0343d88a)" -eq 0

podman run --detach --init \
  --name=lumbre-tuned-2-06e1a2d9 \
  --userns=keep-id \
  --user=1000:1000 \
  --workdir=/data \
  --mount=type=bind,source=/data,target=/data \
  --device=nvidia.com/gpu=0 \
  --device=nvidia.com/gpu=1 \
  --shm-size=8g \
  --stop-timeout=3600 \
  --env=OMP_NUM_THREADS=3 \
  --entrypoint=python lumbre:cpu -m lumbre.elastic --standalone --nproc-per-node=2 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=3600 -m lumbre.cli finetune tune.yaml 'note=it'"'"'s "$(touch pwned)" `touch pwned` $HOME & %j, -x
rm -rf x'
test "$(podman wait lumbre-tuned-2-06e1a2d9)" -eq 0

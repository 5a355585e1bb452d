#!/bin/sh
set -eu

docker run --detach --init \
  --name=lumbre-bert-prepare-ed2e6d8e \
  --user=1000:1000 \
  --workdir=/data \
  --mount=type=bind,source=/data,target=/data \
  --shm-size=8g \
  --stop-timeout=3600 \
  --env=OMP_NUM_THREADS=8 \
  '--env=NOTE=it'"'"'s "$(touch pwned)" `touch pwned` $HOME & %j, -x
rm -rf x' \
  --env=HF_TOKEN \
  --entrypoint=python lumbre:cpu -m lumbre.cli prepare bert.yaml
test "$(docker wait lumbre-bert-prepare-ed2e6d8e)" -eq 0

docker run --detach --init \
  --name=lumbre-bert-0343d88a \
  --user=1000:1000 \
  --workdir=/data \
  --mount=type=bind,source=/data,target=/data \
  --shm-size=8g \
  --stop-timeout=3600 \
  --env=OMP_NUM_THREADS=4 \
  '--env=NOTE=it'"'"'s "$(touch pwned)" `touch pwned` $HOME & %j, -x
rm -rf x' \
  --env=HF_TOKEN \
  --entrypoint=python lumbre:cpu -m lumbre.elastic --standalone --nproc-per-node=2 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=3600 -m lumbre.cli pretrain bert.yaml train.steps=9
test "$(docker wait lumbre-bert-0343d88a)" -eq 0

docker run --detach --init \
  --name=lumbre-tuned-2-06e1a2d9 \
  --user=1000:1000 \
  --workdir=/data \
  --mount=type=bind,source=/data,target=/data \
  --shm-size=8g \
  --stop-timeout=3600 \
  --env=OMP_NUM_THREADS=4 \
  '--env=NOTE=it'"'"'s "$(touch pwned)" `touch pwned` $HOME & %j, -x
rm -rf x' \
  --env=HF_TOKEN \
  --entrypoint=python lumbre:cpu -m lumbre.elastic --standalone --nproc-per-node=2 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=3600 -m lumbre.cli finetune tune.yaml 'note=it'"'"'s "$(touch pwned)" `touch pwned` $HOME & %j, -x
rm -rf x'
test "$(docker wait lumbre-tuned-2-06e1a2d9)" -eq 0

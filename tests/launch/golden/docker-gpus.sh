#!/bin/sh
set -eu

docker run --detach --init \
  --name=lumbre-bert-prepare-ed2e6d8e \
  --user=7:7 \
  --workdir=/data \
  --mount=type=bind,source=/data,target=/data \
  '--mount=type=bind,"source=/corpus, old",target=/corpus,readonly' \
  --shm-size=64g \
  --network=host \
  --stop-timeout=3600 \
  --env=OMP_NUM_THREADS=8 \
  --env=WANDB_API_KEY \
  --env=WANDB_BASE_URL \
  --env=HF_TOKEN \
  --ulimit=memlock=-1 \
  --entrypoint=python lumbre:cuda -m lumbre.cli prepare bert.yaml
test "$(docker wait lumbre-bert-prepare-ed2e6d8e)" -eq 0

docker run --detach --init \
  --name=lumbre-bert-0343d88a \
  --user=7:7 \
  --workdir=/data \
  --mount=type=bind,source=/data,target=/data \
  '--mount=type=bind,"source=/corpus, old",target=/corpus,readonly' \
  --gpus=4 \
  --shm-size=64g \
  --network=host \
  --stop-timeout=3600 \
  --env=OMP_NUM_THREADS=2 \
  --env=WANDB_API_KEY \
  --env=WANDB_BASE_URL \
  --env=HF_TOKEN \
  --ulimit=memlock=-1 \
  --entrypoint=python lumbre:cuda -m lumbre.elastic --standalone --nproc-per-node=4 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=3600 -m lumbre.cli pretrain bert.yaml train.steps=9
test "$(docker wait lumbre-bert-0343d88a)" -eq 0

docker run --detach --init \
  --name=lumbre-tuned-2-06e1a2d9 \
  --user=7:7 \
  --workdir=/data \
  --mount=type=bind,source=/data,target=/data \
  '--mount=type=bind,"source=/corpus, old",target=/corpus,readonly' \
  --gpus=4 \
  --shm-size=64g \
  --network=host \
  --stop-timeout=3600 \
  --env=OMP_NUM_THREADS=2 \
  --env=WANDB_API_KEY \
  --env=WANDB_BASE_URL \
  --env=HF_TOKEN \
  --ulimit=memlock=-1 \
  --entrypoint=python lumbre:cuda -m lumbre.elastic --standalone --nproc-per-node=4 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=3600 -m lumbre.cli finetune tune.yaml 'note=it'"'"'s "$(touch pwned)" `touch pwned` $HOME & %j, -x
rm -rf x'
test "$(docker wait lumbre-tuned-2-06e1a2d9)" -eq 0

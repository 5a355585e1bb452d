#!/bin/sh
# Run on the first host.
cd -- '/share/my project' || exit
export PYTHONUNBUFFERED=1
export NCCL_DEBUG='it'"'"'s INFO'
exec '/opt/my python/bin/python' -m lumbre.cli prepare configs/bert.yaml

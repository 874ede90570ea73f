#!/usr/bin/env bash
# Cancels the jobs and stops the daemons that up.sh started in DIR, and no others.
set -u
DIR=$(readlink -m "${1:?usage: down.sh DIR}")
export SLURM_CONF="$DIR/slurm.conf"
timeout 10 scancel --user="$(id -un)" 2>/dev/null
for _ in $(seq 20); do
  [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break
  sleep 0.5
done
for file in "$DIR"/run/slurmd.*.pid "$DIR/run/slurmctld.pid" "$DIR/run/munged.pid"; do
  [ -s "$file" ] && kill "$(cat "$file")" 2>/dev/null
done
exit 0

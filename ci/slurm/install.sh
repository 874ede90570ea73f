#!/usr/bin/env bash
# SLURM for the tests in tests/tools/clusters/slurm, which are skipped without it.
# Does nothing where it is there, or without root.
set -euo pipefail
command -v slurmctld > /dev/null && exit
[ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || { echo "no SLURM: its tests are skipped"; exit; }
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null ||
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null; } ||
  echo "no SLURM: its tests are skipped"

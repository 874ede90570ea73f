#!/usr/bin/env bash
# SLURM on one machine, for tests: munged, slurmctld and two slurmd on loopback, with stand-ins for GPUs.
# No systemd, no cgroups, no database, nothing outside of DIR; any user may run it, for that user's jobs.
#
#   up.sh DIR     writes DIR/slurm.conf and starts the daemons; prints what to export
#   down.sh DIR   stops exactly those
set -euo pipefail
DIR=$(readlink -m "${1:?usage: up.sh DIR}")
NODES=2 CPUS=8 MEMORY=8192   # of each node; believed, not checked
GPUS=(/dev/null /dev/zero)   # SLURM wants a device for each GPU, and hands out their numbers
PORT=$((20000 + RANDOM % 12000))
HOST=$(hostname -s)
ME=$(id -un)

mkdir -p "$DIR"/{state,log,run}
chmod 0755 "$DIR" "$DIR/run"
# A key and a socket of its own, never the system's; --force, as temporary folders are writable by a group.
(umask 077 && head -c 1024 /dev/urandom > "$DIR/munge.key")
munged --force --key-file="$DIR/munge.key" --socket="$DIR/run/munge.sock" --pid-file="$DIR/run/munged.pid" \
       --log-file="$DIR/log/munged.log" --seed-file="$DIR/run/munge.seed"

{
cat <<CONF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=$ME
SlurmdUser=$ME
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$DIR/run/munge.sock
StateSaveLocation=$DIR/state
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdPidFile=$DIR/run/slurmd.%n.pid
SlurmdLogFile=$DIR/log/slurmd.%n.log
SlurmdSpoolDir=$DIR/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
KillWait=2
SlurmdTimeout=30
SlurmdParameters=config_overrides
GresTypes=gpu
CONF
for i in $(seq "$NODES"); do
  echo "NodeName=n$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + i)) CPUs=$CPUS RealMemory=$MEMORY" \
       "Gres=gpu:fake:${#GPUS[@]} State=UNKNOWN"
done
echo "PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
} > "$DIR/slurm.conf"
for i in $(seq "$NODES"); do
  for gpu in "${GPUS[@]}"; do echo "NodeName=n$i Name=gpu Type=fake File=$gpu"; done
done > "$DIR/gres.conf"

export SLURM_CONF="$DIR/slurm.conf"
slurmctld -f "$SLURM_CONF" -i
for i in $(seq "$NODES"); do slurmd -N "n$i" -f "$SLURM_CONF"; done
for _ in $(seq 100); do
  idle=$(sinfo -h -N -o '%T' 2>/dev/null | grep -c '^idle$' || true)
  [ "$idle" = "$NODES" ] && { echo "export SLURM_CONF=$SLURM_CONF"; exit; }
  sleep 0.2
done
sinfo -N -l >&2 || true
tail -n 20 "$DIR"/log/*.log >&2
exit 1

#!/usr/bin/env bash
# A Slurm of two nodes, n1 and n2, on this machine: slurm.sh start FOLDER, slurm.sh stop FOLDER. Everything it writes lies
# in FOLDER; SLURM_CONF=FOLDER/slurm.conf makes sbatch, squeue and scontrol speak to it. Needs root, slurmctld, slurmd and
# munged: on Debian, apt-get install --no-install-recommends slurmctld slurmd slurm-client munge.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
folder=$(realpath -m "$2")
export SLURM_CONF=$folder/slurm.conf

stop() {
  for name in slurmctld n1 n2 munged; do
    if [[ -s $folder/$name.pid ]]; then kill "$(<"$folder/$name.pid")" 2>/dev/null || true; fi
  done
}

if [[ $1 == stop ]]; then stop; exit; fi
for program in slurmctld slurmd munged sbatch; do
  command -v "$program" >/dev/null || { echo "slurm.sh: no $program here (apt-get install slurmctld slurmd slurm-client munge)" >&2; exit 1; }
done

mkdir -p "$folder"/{state,n1,n2}
chmod 755 "$folder"
port=$((20000 + RANDOM % 10000))
dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
chmod 400 "$folder/munge.key"
munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"

cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
KillWait=20
MinJobAge=60
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1 RealMemory=1000
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=1 RealMemory=1000
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=60 State=UP
END
cat >"$folder/cgroup.conf" <<END
CgroupPlugin=cgroup/v1
IgnoreSystemd=yes
END
slurmctld -c
for node in n1 n2; do slurmd -N "$node"; done
for _ in $(seq 50); do
  if [[ $(sinfo --noheader --Node --format=%T 2>/dev/null | grep -c idle) == 2 ]]; then exit; fi
  sleep 0.2
done
echo "slurm.sh: the nodes did not come up; see $folder/*.log" >&2
sinfo >&2 || true
stop
exit 1

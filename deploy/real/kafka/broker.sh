#!/usr/bin/env bash
# Runs one real Kafka broker (KRaft, broker and controller in one process) on
# loopback and becomes it, so a signal to this process reaches the broker.
#
#   broker.sh FOLDER NODE PORTS     data in FOLDER, this is node NODE of PORTS,
#                                   for instance 9092:9093,9094:9095,9096:9097
#                                   (broker:controller of node 1, 2, 3)
#
# KAFKA_OPTS replaces the options of the Java machine.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $# == 3 ]] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$1 node=$2
IFS=, read -ra ports <<<"$3"
count=${#ports[@]}
own=${ports[node - 1]}

home=$("$here/fetch.sh")
mkdir -p "$folder"
voters=
for ((i = 1; i <= count; i++)); do
  voters+="${voters:+,}$i@127.0.0.1:${ports[i - 1]#*:}"
done
replicas=$((count < 3 ? 1 : 3))
in_sync=$((count < 3 ? 1 : 2))

# Topics are made by the project with the replication it wants, never by accident.
# The short session and fetch times make a killed broker's partitions move within
# seconds; the small group times let a test have a member time out.
cat >"$folder/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:${own%:*},CONTROLLER://127.0.0.1:${own#*:}
advertised.listeners=PLAINTEXT://127.0.0.1:${own%:*}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$folder/log
auto.create.topics.enable=false
default.replication.factor=$replicas
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=500
controller.quorum.fetch.timeout.ms=3000
replica.lag.time.max.ms=6000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
PROPERTIES

read -ra options <<<"${KAFKA_OPTS:--Xms64m -Xmx384m -XX:+UseSerialGC}"
options+=("-Dlog4j2.configurationFile=$here/log4j2.properties" -cp "$home/libs/*")

# Every node of a cluster must carry the same cluster id; it is not a secret.
if [[ ! -f $folder/log/meta.properties ]]; then
  java "${options[@]}" kafka.tools.StorageTool format --ignore-formatted \
    -t dG9sbHdheS10ZXN0cy0xMg -c "$folder/server.properties"
fi
exec java "${options[@]}" kafka.Kafka "$folder/server.properties"

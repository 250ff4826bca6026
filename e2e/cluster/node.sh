# A node's first process: its own views, then containerd, kube-proxy and the kubelet. Killing it ends all of them.
# In: NODE (its folder), PARTS (container parts), KUBELET, KUBE_PROXY, STATE (the cluster's folder), LOGS, NAME, ADDRESS,
# GATEWAY, PEERS ("RANGE=ADDRESS ..." of the other nodes' pods).
set -eu
mount --make-rshared /
mount -t tmpfs tmpfs /run
mount --bind "$NODE/var" /var
mount -t overlay overlay -o "lowerdir=$PARTS/usr:/usr" /usr

set_in_view() { # the kubelet insists on these; the machine keeps its own
  echo "$2" >"/run/${1##*/}"
  mount --bind "/run/${1##*/}" "/proc/sys/$1"
}
set_in_view vm/overcommit_memory 1
set_in_view kernel/panic 10
set_in_view kernel/panic_on_oops 1

hostname "$NAME"
ip link set lo up
until ip link set eth0 up 2>/dev/null; do sleep 0.02; done
ip addr add "$ADDRESS/24" dev eth0
ip route add default via "$GATEWAY"
echo 1 >/proc/sys/net/ipv4/ip_forward
for peer in $PEERS; do ip route add "${peer%=*}" via "${peer#*=}"; done

containerd -c "$NODE/containerd.toml" >>"$LOGS/containerd-$NAME.log" 2>&1 &
until ctr -n k8s.io images import "$STATE/pause.tar" >/dev/null 2>&1; do sleep 0.05; done
until [ -e "$STATE/api-ready" ]; do sleep 0.05; done
"$KUBE_PROXY" --config "$NODE/proxy.json" >>"$LOGS/kube-proxy-$NAME.log" 2>&1 &
while :; do
  "$KUBELET" --config "$NODE/kubelet.json" --kubeconfig "$STATE/pki/$NAME.conf" --hostname-override "$NAME" \
    --node-ip "$ADDRESS" --node-labels "kubernetes.io/hostname=$NAME" >>"$LOGS/kubelet-$NAME.log" 2>&1 || sleep 0.5
done

# The same as tuned.sh, as most scripts are written: one command after the other.
set -e
iptables=iptables-$1 # nft or legacy
mount -t tmpfs run /run
mkdir /run/netns
for n in node app statsd coredns-1 coredns-2 other; do
  ip netns add $n
  ip -n $n link set lo up
done
host() { # host, address, gateway
  ip link add $1 netns node type veth peer name eth0 netns $1
  ip -n node address add $3/32 dev $1
  ip -n node link set $1 up
  ip -n node route add ${2%/*}/32 dev $1
  ip -n $1 address add $2 dev eth0 noprefixroute
  ip -n $1 link set eth0 up
  ip -n $1 route add $3 dev eth0
  ip -n $1 route add default via $3
}
host app 10.244.2.5/24 10.244.2.1
host statsd 10.244.3.6/24 10.244.3.1
host coredns-1 10.244.1.10/24 10.244.1.1
host coredns-2 10.244.1.11/24 10.244.1.1
host other 10.244.3.7/24 10.244.3.1
in_node() { ip netns exec node "$@"; }
in_node sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
in_node sh -c 'echo 1 > /proc/sys/net/netfilter/nf_conntrack_acct'
nat() { in_node $iptables -t nat "$@"; }
for c in KUBE-SERVICES KUBE-POSTROUTING KUBE-MARK-MASQ KUBE-SVC-DNS KUBE-SEP-DNS; do nat -N $c; done
nat -A PREROUTING -j KUBE-SERVICES
nat -A OUTPUT -j KUBE-SERVICES
nat -A POSTROUTING -j KUBE-POSTROUTING
for p in udp tcp; do nat -A KUBE-SERVICES -d 10.96.0.10 -p $p --dport 53 -j KUBE-SVC-DNS; done
nat -A KUBE-SVC-DNS -m comment --comment kube-dns -j KUBE-SEP-DNS
nat -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
nat -A KUBE-POSTROUTING -j MASQUERADE
in_node $iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP
backend() {
  nat -F KUBE-SEP-DNS
  nat -A KUBE-SEP-DNS -s $1 -j KUBE-MARK-MASQ
  for p in udp tcp; do nat -A KUBE-SEP-DNS -p $p -j DNAT --to-destination $1:53; done
}
backend 10.244.1.10
backend 10.244.1.11
in_node conntrack -L >/dev/null 2>&1
in_node conntrack -S >/dev/null
in_node $iptables-save -c >/dev/null
for n in node app statsd coredns-1 coredns-2 other; do ip netns del $n; done

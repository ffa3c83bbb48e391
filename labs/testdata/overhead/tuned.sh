# The network of coredns-restart by ip -batch and iptables-restore, without any traffic: six namespaces, five links, rules,
# a change of rules, a look at table, counters and rules, and all taken down again. As somebody writes it who has
# measured: as few programs as can be. It is run in network and mount namespaces of its own, so that its names are not
# the machine's.
set -e
iptables=iptables-$1 # nft or legacy
mount -t tmpfs run /run
mkdir /run/netns
for n in node app statsd coredns-1 coredns-2 other; do ip netns add $n; done
link() { # host, address, gateway
  echo "link add $1 type veth peer name eth0 netns $1"
  echo "address add $3/32 dev $1"
  echo "link set $1 up"
  echo "route add ${2%/*}/32 dev $1"
}
{
  echo "link set lo up"
  link app 10.244.2.5/24 10.244.2.1
  link statsd 10.244.3.6/24 10.244.3.1
  link coredns-1 10.244.1.10/24 10.244.1.1
  link coredns-2 10.244.1.11/24 10.244.1.1
  link other 10.244.3.7/24 10.244.3.1
} | ip -n node -batch -
host() { # host, address, gateway
  ip -n $1 -batch - <<END
link set lo up
address add $2 dev eth0 noprefixroute
link set eth0 up
route add $3 dev eth0
route add default via $3
END
}
host app 10.244.2.5/24 10.244.2.1
host statsd 10.244.3.6/24 10.244.3.1
host coredns-1 10.244.1.10/24 10.244.1.1
host coredns-2 10.244.1.11/24 10.244.1.1
host other 10.244.3.7/24 10.244.3.1
in_node() { ip netns exec node "$@"; }
in_node sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/netfilter/nf_conntrack_acct'
endpoint() { # backend
  cat <<END
-A KUBE-SEP-DNS -s $1/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-DNS -p udp -m udp -j DNAT --to-destination $1:53
-A KUBE-SEP-DNS -p tcp -m tcp -j DNAT --to-destination $1:53
COMMIT
END
}
{
  cat <<END
*filter
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-DNS - [0:0]
:KUBE-SEP-DNS - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m udp --dport 53 -j KUBE-SVC-DNS
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 53 -j KUBE-SVC-DNS
-A KUBE-SVC-DNS -m comment --comment kube-dns -j KUBE-SEP-DNS
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE
END
  endpoint 10.244.1.10
} | in_node $iptables-restore
{
  printf '%s\n' '*nat' ':KUBE-SEP-DNS - [0:0]'
  endpoint 10.244.1.11
} | in_node $iptables-restore --noflush
in_node sh -c "conntrack -L; conntrack -S; $iptables-save -c" >/dev/null 2>&1
for n in node app statsd coredns-1 coredns-2 other; do ip netns del $n; done

#!/bin/sh
# Prepares a guest of the Vagrantfile: what ctlab calls, and the modules that it needs.
#
#   provision.sh debian|rhel
set -eu
case $1 in
debian)
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update
  apt-get -qy install --no-install-recommends iptables conntrack iproute2 kmod
  ;;
rhel)
  # CentOS 7 is past its end of life. Its packages are in the vault, to which the box's repository files must point.
  yum -q -y install iptables conntrack-tools iproute kmod
  ;;
*)
  echo "unknown family $1" >&2
  exit 2
  ;;
esac
modprobe -a nf_conntrack nf_conntrack_netlink veth
uname -r
iptables --version

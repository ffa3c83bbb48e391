#!/bin/sh
# Plays labs in a guest of the Vagrantfile: those that are named, or else all bundled ones.
# The JUnit report and the traces stay in /var/tmp, from where vm/labs fetches them.
set -eu
install -m 0755 /vagrant/bin/ctlab /usr/local/bin/ctlab
[ -n "${1:-}" ] || set -- "$(ctlab labs | awk '/^[^ ]/ { print $1 }')"
cd /vagrant
# shellcheck disable=SC2086 # several labs in one argument
exec ctlab run -j 2 --junit /var/tmp/ctlab.xml --trace /var/tmp/ctlab.trace $1

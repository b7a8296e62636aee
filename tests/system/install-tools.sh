#!/bin/sh
# Installs what the system tests need on a Debian or Ubuntu host; as root, or by sudo.
#   systemd-container       systemd-nspawn, which boots the machines (the host itself needs no systemd)
#   mmdebstrap              builds their roots; debian-archive-keyring checks what it downloads
#   util-linux iproute2     nsenter; addresses and network namespaces
set -eu

packages="systemd-container mmdebstrap debian-archive-keyring util-linux iproute2"

exec "$(dirname "$0")/../../tools/need" $packages

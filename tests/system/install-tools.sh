#!/bin/sh
# Installs what the system tests need on a Debian or Ubuntu host; as root, or by sudo.
#   systemd-container       systemd-nspawn, which boots the machines (the host itself needs no systemd)
#   mmdebstrap              builds their roots; debian-archive-keyring checks what it downloads
#   util-linux iproute2     nsenter; addresses and network namespaces
set -eu

packages="systemd-container mmdebstrap debian-archive-keyring util-linux iproute2"

as_root=
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null || { echo "$0: run me as root, or install sudo" >&2; exit 1; }
	as_root=sudo
fi

missing=
for package in $packages; do
	status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

$as_root apt-get update --quiet
# shellcheck disable=SC2086 # both are lists of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends $missing

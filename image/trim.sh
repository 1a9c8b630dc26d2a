#!/bin/sh
# Last step of the Debian root ($1): byte code that stays valid whatever the files' times are (PEP 552), and no rests of the
# installation.
set -eu
root=$1
find "$root/usr/lib/python3.11" -name __pycache__ -prune -exec rm -rf {} +
rm -rf "$root/usr/lib/python3.11/pydoc_data" "$root/usr/lib/python3.11/lib2to3"
chroot "$root" python3.11 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3.11
rm -rf "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old "$root"/var/log/* "$root"/usr/lib/python3.11/test
rm -rf "$root/var/cache/apt" "$root/var/lib/apt"
rm -f "$root/etc/resolv.conf" "$root/etc/hostname" "$root/etc/machine-id"

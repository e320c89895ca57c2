#!/bin/sh
# Becomes systemd, as process 1 of new PID, mount and control group namespaces within a lab machine.
#
# It gets what a container has: /proc with the machine's own sysctls alone, /dev of its own, its control group,
# and none of the host's units but those that are asked for. So it starts nothing, and touches no device.
set -eu
mount -t proc proc /proc
mount --bind /proc/sys/net /proc/sys/net
mount --rbind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup

mkdir /tmp/dev
mount -t tmpfs -o mode=755 dev /tmp/dev
while read -r name major minor; do
    mknod -m 666 "/tmp/dev/$name" c "$major" "$minor"
done <<END
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
END
mkdir /tmp/dev/net /tmp/dev/pts /tmp/dev/shm
mknod -m 666 /tmp/dev/net/tun c 10 200
ln -s /proc/self/fd /tmp/dev/fd
ln -s /run/systemd/journal/dev-log /tmp/dev/log
mount --move /tmp/dev /dev
mount -t tmpfs shm /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts
ln -s pts/ptmx /dev/ptmx

units=/usr/lib/systemd/system
for directory in /usr/lib/systemd/system-generators "$units"/*.wants "$units"/*.requires; do
    [ ! -d "$directory" ] || mount -t tmpfs -o mode=755 none "$directory"
done
rm -rf /etc/systemd/system /etc/systemd/system-generators
mkdir -p /etc/systemd/system /etc/systemd/journald.conf.d
for unit in tmp.mount systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-udevd.service \
    systemd-modules-load.service systemd-sysctl.service systemd-tmpfiles-setup.service; do
    ln -s /dev/null "/etc/systemd/system/$unit"
done
printf '[Journal]\nReadKMsg=no\nAudit=no\nStorage=volatile\n' >/etc/systemd/journald.conf.d/lab.conf
printf '[Unit]\nWants=basic.target systemd-journald.service\n' >/etc/systemd/system/lab.target

without=-sys_module,-sys_time,-sys_rawio,-sys_boot,-mac_admin,-mac_override,-audit_control
exec env -i container=lab PATH="$PATH" setpriv --bounding-set "$without" \
    /lib/systemd/systemd --system --unit=lab.target --log-target=journal

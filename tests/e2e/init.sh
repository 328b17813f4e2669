#!/usr/bin/busybox sh
# The guest's first process: modules, network, then the agent until the machine is switched off.
/usr/bin/busybox --install -s /usr/bin
export PATH=/usr/sbin:/usr/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
while read -r module; do
    insmod "/modules/$module.ko"
done </modules/order
mount -t configfs configfs /sys/kernel/config
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
echo nqn.2014-08.org.nvmexpress:uuid:5ca1ab1e-0000-4000-8000-00000000e2e0 >/etc/nvme/hostnqn
echo 5ca1ab1e-0000-4000-8000-00000000e2e0 >/etc/nvme/hostid
# Only warnings and worse on the serial console: each character costs an exit of the emulator.
dmesg -n 5
until port=$(grep -l '^agent$' /sys/class/virtio-ports/*/name 2>/dev/null); do
    sleep 0.1
done
python3 -S /agent.py "/dev/$(basename "$(dirname "$port")")"
reboot -f

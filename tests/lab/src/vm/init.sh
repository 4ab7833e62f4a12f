#!/bin/busybox sh
# First program of the machine: mounts the host's file system under a throw-away overlay and changes over to it.
# "@RUN@" parameters come on the kernel's command line: ocicat_vm=qemu, or ocicat_vm=<run directory> under UML.
B=/bin/busybox
fail() { $B echo "lab vm: $*"; $B poweroff -f; }
$B mount -t proc proc /proc
$B mount -t devtmpfs dev /dev
for word in $($B cat /proc/cmdline); do
  case $word in ocicat_vm=*) RUN=${word#*=} ;; esac
done
while read -r module; do
  $B insmod "/modules/$module" || $B echo "lab vm: cannot load $module"
done < /modules/list

# share TAG MOUNTPOINT CACHE HOSTPATH
share() {
  if [ "$RUN" = qemu ]; then
    $B mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,cache=$3" "$1" "$2" || fail "cannot mount $1"
  else
    $B mount -t hostfs -o "$4" none "$2" || fail "cannot mount $4"
  fi
}

share host /host loose,ro /
$B mount -t tmpfs -o size=75% tmpfs /upper
$B mkdir /upper/files /upper/work
$B mount -t overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work overlay /new || fail "no overlay"

$B mount -t devtmpfs dev /new/dev
$B mount -t proc proc /new/proc
$B mount -t sysfs sys /new/sys
$B mount -t tmpfs -o mode=755 run /new/run
$B mkdir -p /new/run/vm /new/run/lock /new/dev/pts /new/dev/shm
share run /new/run/vm none "$RUN"
$B mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /new/dev/pts
$B mount -t tmpfs -o mode=1777 shm /new/dev/shm
$B mount -t cgroup2 cgroup2 /new/sys/fs/cgroup 2>/dev/null
$B mount -t bpf bpf /new/sys/fs/bpf 2>/dev/null
$B ln -s /proc/self/fd /new/dev/fd
$B ln -s fd/0 /new/dev/stdin
$B ln -s fd/1 /new/dev/stdout
$B ln -s fd/2 /new/dev/stderr

. /new/run/vm/conf
KERNEL=$($B uname -r)
$B mkdir -p "/new/lib/modules/$KERNEL"
$B mount -o bind "/new$MODULES/$KERNEL" "/new/lib/modules/$KERNEL" || fail "no modules for $KERNEL"
number=0
while IFS= read -r directory; do
  share "share$number" "/new$directory" mmap "$directory"
  number=$((number + 1))
done < /new/run/vm/shares

$B ip link set lo up
$B hostname vm
$B cp /bin/busybox /new/run/busybox
$B umount -l /proc
exec $B switch_root -c /dev/console /new /run/busybox sh /run/vm/guest

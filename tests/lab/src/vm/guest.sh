# Second program of the machine, in the host's file system: runs the command, keeps its status, switches off.
B=/run/busybox
. /run/vm/conf
tries=0
while ! [ -c "$ERR" ] && [ $tries -lt 100 ]; do
  $B usleep 100000
  tries=$((tries + 1))
done
if [ "$ENGINE" = uml ]; then
  for tty in "$OUT" "$ERR"; do $B stty raw -echo < "$tty"; done
fi
ulimit -n 65536 2>/dev/null
/bin/sh /run/vm/command < /dev/null > "$OUT" 2> "$ERR"
echo $? > /run/vm/status.new
$B mv /run/vm/status.new /run/vm/status
if [ "$ENGINE" = uml ]; then
  for tty in "$OUT" "$ERR"; do $B stty drain < "$tty"; done 2>/dev/null
fi
$B sync
[ "$ENGINE" = qemu ] && echo b > /proc/sysrq-trigger
$B poweroff -f

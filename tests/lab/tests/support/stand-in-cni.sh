#!/bin/sh
# A plugin for the lab's own tests: one veth pair and one address a pod, no policy, no agent.
# Pods named "broken-*" are refused until the file "repaired" stands beside this script.
set -e
here=$(dirname "$0")
link=veth$(echo "$CNI_CONTAINERID" | cut -c1-10)
case $CNI_COMMAND in
ADD)
  case $CNI_ARGS in
  *K8S_POD_NAME=broken-*)
    if ! [ -e "$here/repaired" ]; then
      echo '{"cniVersion":"1.0.0","code":11,"msg":"the stand-in refuses","details":"as the test wants"}'
      exit 1
    fi ;;
  esac
  number=$(flock "$here" sh -c 'n=$(($(cat "$1/counter" 2>/dev/null || echo 0) + 1)); echo $n > "$1/counter"; echo $n' - "$here")
  address=10.65.0.$number
  ip link add "$link" type veth peer name "$CNI_IFNAME" netns "$(basename "$CNI_NETNS")"
  ip link set "$link" up
  echo 1 > "/proc/sys/net/ipv4/conf/$link/proxy_arp"
  echo 0 > "/proc/sys/net/ipv4/neigh/$link/proxy_delay"
  ip route add "$address" dev "$link"
  ip -n "$(basename "$CNI_NETNS")" address add "$address/32" dev "$CNI_IFNAME"
  ip -n "$(basename "$CNI_NETNS")" link set "$CNI_IFNAME" up
  ip -n "$(basename "$CNI_NETNS")" route add 169.254.1.1 dev "$CNI_IFNAME"
  ip -n "$(basename "$CNI_NETNS")" route add default via 169.254.1.1
  echo "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"$address/32\"}]}" ;;
DEL)
  echo "DEL netns=$CNI_NETNS prev=$(grep -c prevResult || true)" >> "$here/calls"
  ip link delete "$link" 2>/dev/null || true ;;
esac

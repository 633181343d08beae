# The networks of a cluster: one of docker's between its nodes, a second one for tests that cut the first, and the pods'.
# To be sourced by scripts/kind.

# Private addresses that few others use; the third part is chosen so that nothing on this machine has it.
subnet_prefix=10.89
pod_subnet=10.244.0.0/16
# The first node's last part. Lower ones are docker's gateway.
first_address=10

# ensure_network NAME [OPTION...]: a network of docker with a subnet of our choice: only in such a one can addresses be fixed.
ensure_network() {
    local name=$1 third subnet
    shift
    ! docker network inspect "$name" >/dev/null 2>&1 || return 0
    for ((third = 0; third < 256; third++)); do
        subnet=$subnet_prefix.$third.0/24
        [ -z "$(ip -4 route show root "$subnet")" ] || continue
        ! docker network create --driver bridge --subnet "$subnet" --label "$label" "$@" "$name" >/dev/null 2>&1 || return 0
    done
    fail "docker makes no network $name: $(docker network create --driver bridge --subnet "$subnet" "$@" "$name" 2>&1)"
}

# write_addresses NETWORK: a line for each node, its name and its address.
write_addresses() {
    local prefix node last=$first_address
    prefix=$(docker network inspect --format '{{(index .IPAM.Config 0).Subnet}}' "$1")
    for node in "${nodes[@]}"; do
        printf '%s %s.%s\n' "$node" "${prefix%.*}" "$last"
        last=$((last + 1))
    done
}

# The second interface of every node.
connect_second_network() {
    local node address
    ensure_network "$second_network" --internal
    while read -r node address; do
        docker network connect --ip "$address" "$second_network" "$node"
    done < <(write_addresses "$second_network")
}

# What the kubelet's runtime calls for each pod of a node whose pods have addresses in $1. Which addresses are taken is forgotten
# with the start of the node, as its pods are. Each subnet has a bridge of its own: when a node is registered anew, it gets another
# subnet, and the pods that it still runs keep theirs.
pod_network_configuration() {
    local third=${1%.*}
    cat <<END
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "pods${third##*.}", "isGateway": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "/run/cni-addresses",
        "ranges": [[{"subnet": "$1"}]], "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
END
}

# Names and pod subnets of the nodes that have one.
pod_subnets() {
    kubectl get nodes --output 'jsonpath={range .items[*]}{.metadata.name} {.spec.podCIDR}{"\n"}{end}' | awk 'NF == 2'
}

# Connects the pods of all nodes, as soon as the cluster has given each node its addresses. To be repeated when nodes were
# registered anew.
connect_pods() {
    local node subnet
    wait_until "every node has its addresses for pods" all_have_pod_subnets
    while read -r node subnet; do
        pod_network_configuration "$subnet" >"$directory/exchange/$node.conflist"
        awk -v name="$node" -v subnet="$subnet" '$1 == name {print $0, subnet}' "$directory/addresses"
    done < <(pod_subnets) >"$directory/exchange/pod-network"
    # The runtime sees the configuration when it is whole.
    on_all_nodes 'cd /kind && cp exchange/pod-network . && systemctl restart pod-network &&
        cp "exchange/$HOSTNAME.conflist" /etc/cni/net.d/new && mv /etc/cni/net.d/new /etc/cni/net.d/10-pods.conflist'
}

all_have_pod_subnets() { [ "$(pod_subnets | wc -l)" = "${#nodes[@]}" ]; }

# What is done to the nodes of a cluster that runs. To be sourced by scripts/kind.

# load IMAGE... [--name NAME]: what a node has already is not given to it again. The images are written once, to where all nodes see
# them, and read by all at once: that takes about half of the time of one after the other.
load() {
    local wanted=() image id stamp node lacking=()
    choose
    while [ "$#" -gt 0 ]; do
        case $1 in
            --name) choose "${2:?a name}"; shift ;;
            *) wanted+=("$1") ;;
        esac
        shift
    done
    [ -e "$directory/complete" ] || fail "there is no cluster $name: scripts/kind up"
    alone
    mapfile -t nodes < <(containers)
    : >"$directory/stamps"
    for image in "${wanted[@]}"; do
        id=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null) || fail "docker has no image $image"
        stamp=$(sha256sum <<<"$image $id" | cut -c1-32)
        for node in "${nodes[@]}"; do
            docker exec "$node" test -e "/var/lib/kind-loaded/$stamp" && continue
            lacking+=("$image")
            echo "$stamp" >>"$directory/stamps"
            break
        done
    done
    [ "${#lacking[@]}" -gt 0 ] || return 0
    docker save --output "$directory/exchange/images.tar" "${lacking[@]}"
    mv "$directory/stamps" "$directory/exchange/stamps"
    on_all_nodes 'ctr --namespace k8s.io images import --local /kind/exchange/images.tar && mkdir -p /var/lib/kind-loaded &&
        cd /var/lib/kind-loaded && xargs touch </kind/exchange/stamps'
    rm "$directory/exchange/images.tar" "$directory/exchange/stamps"
    say "loaded ${lacking[*]} in $SECONDS s"
}

# Runs a shell command in all of `nodes` at once; fails with what the first that fails said.
on_all_nodes() {
    local node process processes=() failed=
    for node in "${nodes[@]}"; do
        timeout "$seconds_max" docker exec "$node" sh -c "$1" >"$directory/$node.out" 2>&1 &
        processes+=("$!")
    done
    for node in "${nodes[@]}"; do
        process=${processes[0]}
        processes=("${processes[@]:1}")
        wait "$process" || failed=${failed:-$node}
    done
    [ -z "$failed" ] || fail "$failed: $(tail -n 5 "$directory/$failed.out")"
}

# The processes of a node, its pods' too, by their numbers on this machine.
processes_of() {
    local id
    id=$(docker inspect --format '{{if .State.Running}}{{.Id}}{{end}}' "$1" 2>/dev/null) || fail "there is no node $1"
    [ -n "$id" ] || fail "the node $1 does not run"
    "${as_root[@]}" find /sys/fs/cgroup -path "*$id*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un
}

# Those of them whose state is one of the letters $2, as in proc(5).
processes_in_state() {
    local pid files=()
    for pid in $(processes_of "$1"); do files+=("/proc/$pid/status"); done
    awk -v states="[$2]" '$1 == "State:" && $2 ~ states {split(FILENAME, part, "/"); print part[3]}' "${files[@]}" 2>/dev/null || true
}

# pause NODE: by SIGSTOP. `docker pause` would freeze a cgroup, which never succeeds where one process waits in the kernel for another
# that is frozen already, as a writer waits for its FUSE server. Such a process stops when it comes back from there. What somebody
# starts in the node afterwards (`docker exec`) runs.
pause() {
    local pids deadline=$((SECONDS + seconds_max))
    processes_of "$1" >/dev/null
    # Those that were being started meanwhile need another look.
    while [ -n "$(processes_in_state "$1" RS)" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$1 has processes that do not stop: $(processes_in_state "$1" RS | paste -sd ' ')"
        mapfile -t pids < <(processes_in_state "$1" RSD)
        [ "${#pids[@]}" = 0 ] || "${as_root[@]}" kill -STOP "${pids[@]}" 2>/dev/null || true
    done
}

resume() {
    local pids
    processes_of "$1" >/dev/null
    mapfile -t pids < <(processes_of "$1")
    # Some end as soon as they can.
    "${as_root[@]}" kill -CONT "${pids[@]}" 2>/dev/null || true
}

# logs DIRECTORY [NAME]: of every node, also of one that hangs or is dead.
logs() {
    local target=$1 node part
    choose "${2:-}"
    for node in $(containers --all); do
        mkdir -p "$target/$node"
        docker logs "$node" >"$target/$node/start.log" 2>&1 || true
        # What containers wrote, also former ones; and for journalctl --directory, where the text below is missing.
        for part in pods journal; do
            docker cp "$node:/var/log/$part" - 2>/dev/null | tar -C "$target/$node" -xf - 2>/dev/null || true
        done
        timeout 20 docker exec "$node" journalctl --no-pager --all >"$target/$node/journal.log" 2>&1 || true
        timeout 20 docker exec "$node" sh -c 'mount; losetup; ps axo pid,stat,wchan:20,args; ip address; ip route; iptables-save' \
            >"$target/$node/state.log" 2>&1 || true
    done
    kubectl --request-timeout=20s get all,nodes,pvc,pv,events --all-namespaces --output wide >"$target/objects.log" 2>&1 || true
    kubectl --request-timeout=20s get nodes,pods,pvc,pv --all-namespaces --output yaml >"$target/objects.yaml" 2>&1 || true
    say "logs are in $target"
}

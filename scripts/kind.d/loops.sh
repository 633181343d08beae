# Loop devices that the nodes of a cluster bound and did not give back. A killed node cannot: loop devices are the kernel's, and stay.
# To be sourced by scripts/kind.

# Every bound loop device: its name, and the device and inode of its file. (losetup's raw format pads the numbers of the device.)
bound_loops() {
    losetup --list --noheadings --output NAME,BACK-MAJ:MIN,BACK-INO | awk '{print $1, $2, $3}'
}

# Whether any process still sees a file system of device $1 (major:minor).
mounted_anywhere() {
    # Read to the end, also where some process ends meanwhile: a pipe that breaks must not look like a file system that is not there.
    "${as_root[@]}" sh -c 'cat /proc/[0-9]*/mountinfo 2>/dev/null || true' |
        awk -v device="$1" '$3 == device {found = 1} END {exit !found}'
}

# The directories on this machine that are the given containers' volumes.
volumes_of() {
    docker inspect --format '{{range .Mounts}}{{if eq .Type "volume"}}{{println .Source}}{{end}}{{end}}' "$@" | grep . | sort -u
}

# Whether file $2 (an inode) of device $1 lies in one of the directories that follow.
lies_in() {
    local device=$1 inode=$2 directory
    shift 2
    for directory in "$@"; do
        [ "$("${as_root[@]}" stat --format '%Hd:%Ld' "$directory")" = "$device" ] || continue
        [ -z "$("${as_root[@]}" find "$directory" -xdev -inum "$inode" -print -quit)" ] || return 0
    done
    return 1
}

# release_loops BEFORE CONTAINER...: detaches what the containers, which do not run any more, left bound. That is: a device over a
# file in one of their volumes; and one over a file system that nobody sees any more (a FUSE mount of a killed node) and that was
# not bound when the cluster was made (BEFORE, the list of then). A file system on a loop device keeps its file's file system
# busy, so that there may be more to see after the first ones are gone.
release_loops() {
    local before=$1 volumes loop device inode released=1
    shift
    mapfile -t volumes < <(volumes_of "$@")
    while [ "$released" = 1 ]; do
        released=0
        while read -r loop device inode; do
            if ! lies_in "$device" "$inode" "${volumes[@]}"; then
                # Without the list nothing is known of such a one.
                [ -e "$before" ] && ! mounted_anywhere "$device" && ! grep -qxF "$loop $device $inode" "$before" || continue
            fi
            "${as_root[@]}" losetup --detach "$loop"
            # One that is in use is only marked, and goes when its last user does.
            losetup "$loop" >/dev/null 2>&1 || { say "released $loop" && released=1; }
        done < <(bound_loops)
    done
}

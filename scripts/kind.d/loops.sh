# Loop devices that the nodes of a cluster bound and did not give back. A killed node cannot: loop devices are the kernel's, and stay.
# Others on this machine have some, too, also such that look forgotten. To be sourced by scripts/kind.

# Every bound loop device: its name; a number that it has since it was bound, and never again; the device and the inode of its file.
# Where the file system of that file is gone, the kernel cannot tell ("dead"); where its server does not answer, it waits ("waits").
bound_loops() {
    local directory loop status
    for directory in /sys/block/loop*/loop; do
        [ -e "$directory/backing_file" ] || continue
        directory=${directory%/loop}
        loop=${directory#/sys/block/}
        status=$("${as_root[@]}" timeout --signal=KILL 3 losetup --list --noheadings --output BACK-MAJ:MIN,BACK-INO "/dev/$loop" 2>/dev/null) ||
            status=waits
        # The numbers are padded.
        read -r status <<<"${status:-dead}" || true
        printf '%s %s %s\n' "$loop" "$(cat "$directory/diskseq" 2>/dev/null || echo 0)" "${status:-dead}"
    done
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

# loops_of NODE...: the loop devices over file systems that only these nodes, which run, see. To be asked before they are killed.
loops_of() {
    local node pid inside=" "
    for node in "$@"; do
        # What is stopped there would not answer.
        resume "$node"
        for pid in $(processes_of "$node"); do inside+="$pid "; done
    done
    {
        "${as_root[@]}" sh -c 'grep "" /proc/[0-9]*/mountinfo 2>/dev/null || true' | sed 's|^/proc/\([0-9]*\)/mountinfo:|seen \1 |'
        bound_loops
    } | awk -v inside="$inside" '
        $1 == "seen" {if (index(inside, " " $2 " ")) nodes[$5] = 1; else others[$5] = 1; next}
        ($3 in nodes) && !($3 in others) {print $1, $2}'
}

# Whether reading from loop device $1 fails at once. One that waits for its server is not dead; the reader is left to wait with it,
# because a wait for a device does not end by a signal.
fails() {
    local reader deadline=$((SECONDS + 3))
    "${as_root[@]}" dd if="/dev/$1" of=/dev/null bs=4096 count=1 iflag=direct >/dev/null 2>&1 9>&- &
    reader=$!
    while kill -0 "$reader" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
    ! wait "$reader"
}

# is_leaked LOOP NUMBER DEVICE INODE: whether a killed node left this one. What proves it is
# - that its file lies in a volume of the nodes (`volumes`);
# - or that its file system was seen by them only while they ran (`ours`, the list of then);
# - or that its file system lies on another one that they left, and that nobody sees it;
# - or, for nodes that were killed before, that it was not there when the cluster was made (`before`, the list of then), that nobody sees
#   its file system nor one on it, and that it does not work any more. That nobody sees it is not enough: a file system can be in use
#   without being mounted anywhere.
is_leaked() {
    local loop=$1 number=$2 device=$3 inode=${4:-}
    [ "$device" != waits ] || return 1
    [ "$device" = dead ] || ! lies_in "$device" "$inode" "${volumes[@]}" || return 0
    ! grep -qxF "$loop $number" <<<"$ours" || return 0
    # The number of all loop devices is 7, that of one of them the rest.
    if [[ $device = 7:* ]]; then
        # shellcheck disable=SC2046 # its fields
        ! mounted_anywhere "$device" && is_leaked $(bound_loops | grep "^loop${device#7:} ")
        return
    fi
    [ -e "$before" ] && ! grep -q "^$loop $number " "$before" || return 1
    ! mounted_anywhere "$(cat "/sys/block/$loop/dev")" || return 1
    if [ "$device" = dead ]; then
        # Its path begins where its file system was mounted last, and without a mount that is at the file system's own root.
        [ "$(dirname "$(cat "/sys/block/$loop/loop/backing_file")")" = / ]
    else
        ! mounted_anywhere "$device" && fails "$loop"
    fi
}

# release_loops BEFORE OURS CONTAINER...: detaches what the containers, which do not run any more, left bound. A file system on a loop
# device keeps its file's file system busy, so that there may be more to see after the first ones are gone.
release_loops() {
    local before=$1 ours=$2 volumes loop number device inode released=1
    shift 2
    mapfile -t volumes < <(volumes_of "$@")
    while [ "$released" = 1 ]; do
        released=0
        while read -r loop number device inode; do
            is_leaked "$loop" "$number" "$device" "$inode" || continue
            "${as_root[@]}" losetup --detach "/dev/$loop"
            # One that is in use is only marked, and goes when its last user does.
            [ -e "/sys/block/$loop/loop/backing_file" ] || { say "released $loop" && released=1; }
        done < <(bound_loops)
    done
}

# Programs, and what they are linked to, out of the unpacked packages of a distribution: a root file system with nothing else in it.
# To be sourced, with `fail` set.

# empty_tree TREE: the directories that every program may expect.
empty_tree() {
    local directory
    mkdir -p "$1"/{etc,proc,sys,dev,run,tmp,usr/bin,usr/sbin,usr/lib,usr/lib64,var/lib}
    for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$1/$directory"; done
    ln -s /run "$1/var/run"
    # Where tools look for what is mounted.
    ln -s /proc/self/mounts "$1/etc/mtab"
    printf 'root:x:0:0::/:/none\nnonroot:x:65532:65532::/:/none\n' >"$1/etc/passwd"
    printf 'root:x:0:\nnonroot:x:65532:\n' >"$1/etc/group"
    printf 'hosts: files dns\n' >"$1/etc/nsswitch.conf"
}

# place_tool ROOT TREE NAME: copies a program of the packages in ROOT and prints where to. Packages may or may not have moved theirs to /usr.
place_tool() {
    local directory
    for directory in bin sbin; do
        for prefix in usr/ ''; do
            if [ -x "$1/$prefix$directory/$3" ]; then
                cp -L "$1/$prefix$directory/$3" "$2/usr/$directory/$3"
                printf '%s\n' "$2/usr/$directory/$3"
                return
            fi
        done
    done
    fail "no package has the program $3"
}

libraries_of() { readelf --dynamic --wide "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }
loader_of() { readelf --program-headers --wide "$1" | sed -n 's/.*interpreter: \(.*\)\]/\1/p'; }

# place_libraries ROOT TREE PROGRAM...: copies what the programs are linked to, and what that is linked to.
place_libraries() {
    local root=$1 tree=$2 file name found loader
    shift 2
    local queue=("$@")
    while [ "${#queue[@]}" -gt 0 ]; do
        file=${queue[0]}
        queue=("${queue[@]:1}")
        loader=$(loader_of "$file")
        if [ -n "$loader" ] && [ ! -e "$tree$loader" ]; then cp -L "$(find_in "$root" "${loader##*/}")" "$tree$loader"; fi
        for name in $(libraries_of "$file"); do
            # The loader is a library of the C library's too.
            [ ! -e "$tree/usr/lib/$name" ] && [ ! -e "$tree/usr/lib64/$name" ] || continue
            found=$(find_in "$root" "$name")
            # Every loader looks there, whatever the machine.
            cp -L "$found" "$tree/usr/lib/$name"
            queue+=("$tree/usr/lib/$name")
        done
    done
}

# find_in ROOT NAME: a shared library.
find_in() {
    local found
    found=$(find "$1"/lib "$1"/lib64 "$1"/usr/lib -name "$2" -print -quit 2>/dev/null || true)
    [ -n "$found" ] || fail "no package has the library $2"
    printf '%s\n' "$found"
}

# Root file systems of the distribution that this machine runs, from the package sources that it has: no image registry needed.
# To be sourced, with `say`, `fail`, `as_root`, `cache` and the directory `work` set.

# Nobody reads these in a container.
debian_unwanted=('/usr/share/doc/*' '/usr/share/man/*' '/usr/share/info/*' '/usr/share/locale/*' '/usr/share/lintian/*')

# The machine's sources of the distribution itself, one a line; what else is configured (vendors' packages) is left out.
debian_sources() {
    local codename
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v codename="$codename" '$2 ~ "^" codename "(-updates|-security)?$" && !seen[$0]++ {print "deb", $0}'
}

# debian_root NAME PACKAGES [HOOK]: the path of a tar of a root file system with these packages (separated by commas). HOOK is a
# shell command that runs when all is installed, with the root's path as $1. Cached by all of these: newer packages of
# the same distribution alone do not make another one.
debian_root() {
    local name=$1 packages=$2 hook=${3:-true} sources key path options=() pattern
    sources=$(debian_sources)
    [ -n "$sources" ] || fail "no package sources of this distribution found (apt-get indextargets)"
    key=$({ awk '{print $3}' <<<"$sources"; printf '%s\n' "$packages" "$hook" "${debian_unwanted[@]}"; } | sha256sum | cut -c1-12)
    path=$cache/$name-$key.tar
    if [ ! -e "$path" ]; then
        say "making a root file system from Debian packages: $name" >&2
        for pattern in "${debian_unwanted[@]}"; do options+=("--dpkgopt=path-exclude=$pattern"); done
        "${as_root[@]}" mmdebstrap --quiet --mode=root --format=tar --variant=minbase --include="$packages" "${options[@]}" \
            --customize-hook="$hook" "" - - <<<"$sources" >"$path.new"
        mv "$path.new" "$path"
    fi
    printf '%s\n' "$path"
}

# The packages of a node, which tests' images take programs from, too.
node_packages=systemd,dbus,iptables,conntrack,iproute2,procps,mount,kmod,fuse3,e2fsprogs,xfsprogs,busybox-static,runc,ca-certificates

# What a container has no use for, or what reaches the machine below it: timers that trim and check file systems, settings of the
# kernel.
# shellcheck disable=SC2016 # it is mmdebstrap's shell that expands $1
node_trim='set -e
rm -rf "$1"/etc/systemd/system/*.wants "$1"/usr/lib/systemd/system/timers.target.wants "$1"/etc/machine-id
for unit in systemd-sysctl.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-logind.service getty.target \
    systemd-udevd.service systemd-modules-load.service systemd-random-seed.service systemd-firstboot.service; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
ln -sf /lib/systemd/system/multi-user.target "$1/etc/systemd/system/default.target"'

node_root() { debian_root node "$node_packages" "$node_trim"; }

# programs_of ROOT TREE PATTERN...: copies the files of the root file system ROOT (a tar) that match into TREE, with all the libraries
# that they are linked to. Patterns are the shell's, of paths below the root: usr/bin/dd.
programs_of() {
    local root=$1 tree=$2 whole name files library libraries place
    shift 2
    # Kept until the caller ends and removes what it worked in.
    whole=$work/whole-$(basename "$root" .tar)
    [ -d "$whole" ] || { mkdir "$whole" && tar -C "$whole" --exclude='./dev/*' -xf "$root"; }
    (
        cd "$whole"
        # What /lib and /lib64 link to is where programs look for the one that loads their libraries.
        for name in lib lib64; do
            [ ! -L "$name" ] || [ -L "$tree/$name" ] || { mkdir -p "$tree/$(readlink "$name")" && cp -P "$name" "$tree/"; }
        done
        # shellcheck disable=SC2068 # patterns
        files=($@)
        mapfile -t libraries < <("${as_root[@]}" chroot . ldd "${files[@]/#//}" 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*' | grep -v ':$' | sort -u)
        for library in "${libraries[@]}"; do
            place=$(cd ".$(dirname "$library")" && pwd -P)
            files+=("${place#"$PWD"/}/$(basename "$library")")
        done
        printf '%s\0' "${files[@]}" | sort -zu | xargs -0 cp -L --parents --target-directory "$tree"
    )
}

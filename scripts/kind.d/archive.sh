# Container images made of files: archives that docker and containerd both load. No daemon takes part in making them.
# To be sourced.

# tar_of TREE: its files as a tar that depends on nothing but their names, modes and content.
tar_of() {
    tar -C "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - .
}

# archive_image DIRECTORY NAME TREE PROGRAM: adds to the archive that DIRECTORY will become an image of one layer, the files of
# TREE, which runs PROGRAM.
archive_image() {
    local directory=$1 name=$2 tree=$3 program=$4 architecture layer config
    architecture=$(dpkg --print-architecture)
    tar_of "$tree" >"$directory/layer"
    layer=$(sha256sum "$directory/layer" | cut -d' ' -f1)
    mv "$directory/layer" "$directory/$layer.tar"
    cat >"$directory/config" <<END
{"architecture": "$architecture", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]},
 "config": {"Entrypoint": ["$program"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}}
END
    config=$(sha256sum "$directory/config" | cut -d' ' -f1)
    mv "$directory/config" "$directory/$config.json"
    printf '{"Config":"%s.json","RepoTags":["%s"],"Layers":["%s.tar"]}\n' "$config" "$name" "$layer" >>"$directory/images"
}

# archive_end DIRECTORY FILE: the archive of all images that were added.
archive_end() {
    printf '[%s]' "$(paste -sd, "$1/images")" >"$1/manifest.json"
    rm "$1/images"
    tar_of "$1" >"$2"
}

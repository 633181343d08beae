# An image of one layer, which is the same whenever its files are. To be sourced, with `work` set, after kind.d/archive.sh.

# make_image TREE PROGRAM: gives docker an image of these files that starts PROGRAM. Sets `image_id`.
make_image() {
    local place layer
    place=$(mktemp -d --tmpdir="$work")
    tar_of "$1" >"$place/layer.tar"
    layer=$(sha256sum "$place/layer.tar" | cut -d' ' -f1)
    printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/usr/sbin:/usr/bin"],"Entrypoint":["%s"]},%s}' \
        "$(dpkg --print-architecture)" "$2" \
        "$(printf '"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}' "$layer")" >"$place/config.json"
    image_id=$(sha256sum "$place/config.json" | cut -d' ' -f1)
    if ! docker image inspect "$image_id" >/dev/null 2>&1; then
        printf '[{"Config":"config.json","RepoTags":null,"Layers":["layer.tar"]}]' >"$place/manifest.json"
        tar_of "$place" >"$place.tar"
        docker load --quiet --input "$place.tar" >/dev/null
        rm "$place.tar"
    fi
    rm -rf "$place"
}

#!/usr/bin/env bash
# Builds Dockerfile_llamacpp for the CPU with buildah, runs the image and asks it /generate.
#
# Needs root, buildah and debootstrap (both Debian packages), and no container daemon. The base
# image is made here by debootstrap, so nothing is pulled. Takes some 15 minutes on 2 cores.
#
#   WORK_DIR     where base and images lie (default: build/image; 3 GB)
#   EXTRA_CA_DIR certificates (*.crt) that the build has to trust, for networks that need one
set -euo pipefail

repository=$(cd "$(dirname "$0")/../.." && pwd)
work=${WORK_DIR:-$repository/build/image}
port=${PORT:-3999}
base=$work/base
image=tgi-llamacpp:check
mkdir -p "$work"
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)

log() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }
source "$(dirname "$0")/ask_server.sh"

if [ ! -e "$base/.complete" ]; then
  log "making the base image with debootstrap"
  rm -rf "$base"
  debootstrap --variant=minbase bookworm "$base" ${DEBOOTSTRAP_MIRROR:+"$DEBOOTSTRAP_MIRROR"} >"$work/debootstrap.log"
  if [ -n "${EXTRA_CA_DIR:-}" ]; then
    mkdir -p "$base/usr/local/share/ca-certificates"
    cp "$EXTRA_CA_DIR"/*.crt "$base/usr/local/share/ca-certificates/"
  fi
  touch "$base/.complete"
fi
if ! buildah "${storage[@]}" inspect --type image base:bookworm >/dev/null 2>&1; then
  container=$(buildah "${storage[@]}" from scratch)
  buildah "${storage[@]}" copy --quiet "$container" "$base" / >/dev/null
  buildah "${storage[@]}" commit --quiet --rm "$container" base:bookworm >/dev/null
fi

log "building $image"
start=$SECONDS
buildah "${storage[@]}" build --isolation chroot --layers --format docker \
  --build-arg build_image=localhost/base:bookworm \
  --build-arg runtime_image=localhost/base:bookworm \
  --file "$repository/Dockerfile_llamacpp" --tag "$image" "$repository" >"$work/build.log" 2>&1 \
  || { tail -n 40 "$work/build.log"; exit 1; }
log "built in $((SECONDS - start)) s"
[[ $(buildah "${storage[@]}" inspect --type image "$image") == *Healthcheck* ]] \
  || { log "the image has no health check"; exit 1; }

container=$(buildah "${storage[@]}" from "$image")
root=$(buildah "${storage[@]}" mount "$container")
server=
finish() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  buildah "${storage[@]}" umount "$container" >/dev/null
  buildah "${storage[@]}" rm "$container" >/dev/null
}
trap finish EXIT
log "the image holds $(du -sm "$root" | cut -f1) MB, $(du -sm "$root/opt/tgi-llamacpp" | cut -f1) MB of them the virtual environment"
! command -v chroot >/dev/null || [ -z "$(chroot "$root" sh -c 'command -v gcc g++ cc cmake nvcc' || true)" ] \
  || { log "a compiler is in the runtime stage"; exit 1; }

mkdir -p "$work/models"
cp "$repository/src/tgi_llamacpp/demo/"* "$work/models/"
chmod -R a+rX "$work/models"
serve_demo() {
  start=$(date +%s%N)
  buildah "${storage[@]}" run --isolation chroot --user tgi --volume "$work/models:/models:ro" "$container" -- \
    text-generation-router-llamacpp --port "$port" --model-id /models --model-gguf /models/demo.gguf \
    >"$work/server.log" 2>&1 &
  server=$!
  ask_server "$start"
}
stop_server() {
  kill "$server"
  wait "$server" || true
  server=
}
log "running it as a non-root user"
serve_demo
stop_server

# ggml takes the best variant that the CPU can run, so all others are hidden from it one after another.
in_image=$(cd "$root" && echo opt/tgi-llamacpp/lib/python3*/site-packages/tgi_llamacpp/native/lib)
mkdir -p "$work/variants"
for variant in "$root/$in_image"/libggml-cpu-*.so; do
  name=$(basename "$variant")
  score=$(chroot "$root" /opt/tgi-llamacpp/bin/python -c \
    "import ctypes; print(ctypes.CDLL('/$in_image/$name').ggml_backend_score())")
  [ "$score" != 0 ] || { log "$name: not for this CPU"; continue; }
  log "$name"
  for other in "$root/$in_image"/libggml-cpu-*.so; do
    [ "$other" = "$variant" ] || mv "$other" "$work/variants"
  done
  serve_demo
  stop_server
  mv "$work/variants"/libggml-cpu-*.so "$root/$in_image"
done
log "ok"

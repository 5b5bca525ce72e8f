#!/usr/bin/env bash
# Builds the package with llamacpp_cuda=ON as the image does, installs it into an environment of its
# own, and serves the demo model with it on a machine without a GPU.
#
# Needs nvcc and no GPU. Where the toolkit of that nvcc has no cuBLAS, the one of the package index
# is joined to it. Takes some 75 CPU-minutes for one architecture; ccache makes a second run short.
#
#   WORK_DIR   where everything lies (default: build/cuda; 4 GB)
#   CUDA_ARCH  the architectures to compile for (default: 90a-real)
#   CUBLAS     the requirement of pip for cuBLAS (default: nvidia-cublas>=13.0,<13.1)
set -euo pipefail

repository=$(cd "$(dirname "$0")/../.." && pwd)
work=${WORK_DIR:-$repository/build/cuda}
port=${PORT:-3998}
mkdir -p "$work"

log() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }
source "$(dirname "$0")/ask_server.sh"

# The folder that holds bin/nvcc, as nvcc itself tells it: it may be called through a wrapper.
toolkit=$(nvcc --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')
toolkit=$(realpath "$toolkit")
libraries=$toolkit/lib64
if [ ! -e "$libraries/libcublas.so" ]; then
  log "$toolkit has no cuBLAS: joining ${CUBLAS:=nvidia-cublas>=13.0,<13.1}"
  python3 -m pip install --quiet --no-deps --target "$work/cublas" --upgrade "$CUBLAS"
  cublas=$(dirname "$(find "$work/cublas" -name cublas_v2.h)")/..
  joined=$work/toolkit
  rm -rf "$joined"
  mkdir -p "$joined/lib"
  cp -rs "$toolkit"/{bin,include,nvvm,targets} "$joined/"
  cp -rs "$toolkit/lib/." "$joined/lib/"
  cp -rsn "$(realpath "$cublas/include")/." "$joined/include/"
  for library in "$(realpath "$cublas/lib")"/*.so.*; do
    ln -sf "$library" "$joined/lib/"
    ln -sf "$library" "$joined/lib/$(basename "${library%.so.*}").so"
  done
  ln -s lib "$joined/lib64"
  toolkit=$joined
  libraries=$joined/lib
fi

log "building for ${CUDA_ARCH:=90a-real} with $toolkit"
start=$SECONDS
CUDAToolkit_ROOT=$toolkit CUDACXX=$toolkit/bin/nvcc \
  python3 -m pip wheel --no-deps --wheel-dir "$work/dist" "$repository" \
  -C "build-dir=$work/build" -C cmake.define.llamacpp_cuda=ON -C cmake.define.llamacpp_native=OFF \
  -C "cmake.define.cuda_arch=$CUDA_ARCH" >"$work/build.log" 2>&1 || { tail -n 40 "$work/build.log"; exit 1; }
wheel=$(ls -t "$work"/dist/*.whl | head -n 1)
log "built in $((SECONDS - start)) s: a wheel of $(du -m "$wheel" | cut -f1) MB"

[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --force-reinstall --no-deps "$wheel"
"$work/venv/bin/python" -m pip install --quiet "$wheel"
export LD_LIBRARY_PATH=$libraries
cd "$work" # away from the source, which would be imported in place of the wheel
library=$("$work/venv/bin/python" -c '
from pathlib import Path
import tgi_llamacpp.native as native
print(next(Path(native.__file__).parent.glob("lib/libggml-cuda.so")))')
log "imported; $(basename "$library") has $(du -m "$library" | cut -f1) MB and needs:"
ldd "$library" | sed 's/ (0x.*//; s/^/    /'
if ldd "$library" | grep -v 'libcuda\.so' | grep -q 'not found'; then exit 1; fi

log "serving the demo model"
start=$(date +%s%N)
"$work/venv/bin/text-generation-router-llamacpp" --port "$port" \
  --model-id "$repository/src/tgi_llamacpp/demo" --model-gguf "$repository/src/tgi_llamacpp/demo/demo.gguf" >"$work/server.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
ask_server "$start"
if ! nvidia-smi >/dev/null 2>&1; then
  [ "$(grep -c 'no GPU was found' "$work/server.log")" = 1 ] \
    || { cat "$work/server.log"; log "the log does not say once that there is no GPU"; exit 1; }
  grep 'no GPU was found' "$work/server.log"
fi
log "ok"

LLAMACPP_BUILD: str  # llama.cpp's build number, "b11549"
CPU_FEATURES: tuple[str, ...]  # instruction sets that this build needs, as /proc/cpuinfo names them
HAS_CUDA: bool  # ggml was built for NVIDIA GPUs
LOADS_BACKENDS: bool  # ggml's backends are files that LIBRARY_DIR holds, loaded at run time

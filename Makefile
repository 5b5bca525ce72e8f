# Thin by intention: pip and CMake decide, this file only names what people type.

PYTHON ?= python3
VENV ?= .venv
SANITIZE ?= 0
BIN := $(VENV)/bin
CORE_BUILD := build/core-$(SANITIZE)
FUZZ_INPUTS ?= 20000

.PHONY: build tools check test test-long models test-models test-native test-fuzz test-sanitizers serve bench wheel clean

build: build/.installed  ## an editable install in .venv; afterwards only what changed
	@$(BIN)/cmake --build build/editable
	@$(BIN)/cmake --install build/editable --component tgi_llamacpp --strip \
	  --prefix "$(CURDIR)/build/editable-install" >build/install.log

# pip runs again only when what it reads changed: the rest is ninja's.
build/.installed: build/.tools pyproject.toml
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable .
	@touch $@

# With the package's own requirements, which mypy reads, so that `check` builds nothing.
tools: build/.tools
build/.tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.3"
	@mkdir -p build
	@$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*project["dependencies"], sep="\n")' >build/dependencies.txt
	$(BIN)/python -m pip install --quiet --group dev --requirement build/dependencies.txt
	@touch $@

check: build/.tools  ## needs no compiler
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $$(find csrc -name '*.h' -o -name '*.cpp')

test: build test-native test-fuzz
	$(BIN)/python -m pytest

test-long: build  ## what is marked long, such as clients in environments of their own
	$(MAKE) test-fuzz FUZZ_INPUTS=1000000
	$(BIN)/python -m pytest -m long

models: build/.tools  ## downloads the real models of test-models, 340 MB
	$(BIN)/python tests/models/fetch.py

test-models: build  ## on the real models, and on any other GGUF beside them
	$(BIN)/python -m pytest -m models

core = $(BIN)/cmake -S csrc -B $(1) -G Ninja -DSANITIZE=$(2) \
  -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" >build/core.log && $(BIN)/cmake --build $(1)

test-native: build/.tools  ## the C++ core alone; SANITIZE=address or thread: under sanitizers
	@$(call core,$(CORE_BUILD),$(SANITIZE))
	@$(BIN)/ctest --test-dir $(CORE_BUILD) --output-on-failure

test-fuzz: build/.tools  ## the sampler on any parameters and logits, under the sanitizers
	@$(call core,build/core-address,address) --target fuzz_sampler
	@build/core-address/fuzz_sampler $(FUZZ_INPUTS)

test-sanitizers: build  ## the C++ tests and a server, under the sanitizers for memory and threads
	$(MAKE) test-native SANITIZE=address
	$(MAKE) test-native SANITIZE=thread
	$(foreach name,address thread,$(call sanitized,$(name)) &&) true
	$(BIN)/python -m pytest -m sanitizers

# A copy of the package beside the editable one, from the same llama.cpp.
sanitized = LLAMACPP_SOURCE_DIR="$$(readlink -f build/editable/llamacpp-source)" \
  $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --upgrade \
  --target build/sanitize-$(1)/site --config-settings=build-dir=build/sanitize-$(1)/cmake \
  --config-settings=cmake.define.SANITIZE=$(1) --config-settings=install.strip=false .

serve: build  ## the demo model on port 3000
	$(BIN)/tgi-llamacpp demo

bench: build
	$(BIN)/python -m benchmarks

wheel: build/.tools
	$(BIN)/python -m pip wheel --no-build-isolation --no-deps --wheel-dir dist .

clean:  ## keeps .venv and the downloaded source
	rm -rf build dist

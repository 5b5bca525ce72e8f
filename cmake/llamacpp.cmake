# Finds llama.cpp's source: LLAMACPP_SOURCE_DIR, else third_party/llama.cpp, else the download that
# llamacpp.txt pins by its hash. Sets llamacpp_build and llamacpp_source, and leaves in the build
# folder the link llamacpp-source.

set(llamacpp_build 11549)
set(LLAMACPP_SOURCE_DIR "" CACHE PATH "A checkout of llama.cpp to build; else the variable of this name")
set(llamacpp_asked "${LLAMACPP_SOURCE_DIR}")
if(NOT llamacpp_asked) # read each time: what a cache kept would outlive the variable
  set(llamacpp_asked "$ENV{LLAMACPP_SOURCE_DIR}")
endif()
set(llamacpp_remedy "set LLAMACPP_SOURCE_DIR to a checkout of llama.cpp b${llamacpp_build}, or put \
it at third_party/llama.cpp")

# The archive of the pin, from the user's cache or the package index; its hash is checked each time.
function(llamacpp_archive name version sha256 result)
  set(cache "$ENV{XDG_CACHE_HOME}")
  if(NOT cache AND DEFINED ENV{HOME})
    set(cache "$ENV{HOME}/.cache")
  elseif(NOT cache)
    set(cache "${CMAKE_BINARY_DIR}")
  endif()
  set(archive "${cache}/tgi-llamacpp/${sha256}/${name}-${version}.tar.gz")
  if(EXISTS "${archive}")
    file(SHA256 "${archive}" found)
    if(found STREQUAL sha256)
      set(${result} "${archive}" PARENT_SCOPE)
      return()
    endif()
  endif()
  llamacpp_download(${name} ${version} downloaded)
  cmake_path(GET archive PARENT_PATH cache)
  execute_process(COMMAND "${CMAKE_COMMAND}" -E make_directory "${cache}" ERROR_QUIET)
  string(RANDOM part) # two builds may come here at once
  file(COPY_FILE "${downloaded}" "${archive}.${part}" RESULT failure) # no cache is no error
  if(NOT failure)
    file(RENAME "${archive}.${part}" "${archive}")
    file(REMOVE "${downloaded}")
    set(downloaded "${archive}")
  endif()
  set(${result} "${downloaded}" PARENT_SCOPE)
endfunction()

# Downloads by pip, which knows the user's index, proxy and certificates.
function(llamacpp_download name version result)
  set(folder "${CMAKE_BINARY_DIR}/download")
  file(REMOVE_RECURSE "${folder}")
  message(STATUS "Downloading llama.cpp b${llamacpp_build} (${name} ${version}, 38 MB)")
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -m pip download --disable-pip-version-check --no-input
            --progress-bar off --no-deps --no-binary ${name} --require-hashes
            --build-constraint "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/llamacpp-constraints.txt"
            --dest "${folder}" --requirement "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/llamacpp.txt"
    RESULT_VARIABLE status OUTPUT_VARIABLE log ERROR_VARIABLE log)
  file(WRITE "${CMAKE_BINARY_DIR}/llamacpp-download.log" "${log}")
  if(status EQUAL 0)
    set(${result} "${folder}/${name}-${version}.tar.gz" PARENT_SCOPE)
  elseif(log MATCHES "DO NOT MATCH THE HASHES")
    string(REGEX MATCH "Got +([0-9a-f]+)" _ "${log}")
    message(FATAL_ERROR "${name} ${version} has SHA-256 ${CMAKE_MATCH_1}, not the one that "
                        "cmake/llamacpp.txt pins: do not use it; ${llamacpp_remedy}.")
  elseif(log MATCHES "No module named pip|no such option")
    message(FATAL_ERROR "${Python_EXECUTABLE} has no pip of version 25.3 or newer, which downloads "
                        "llama.cpp's source: install it, or ${llamacpp_remedy}.")
  else()
    message(FATAL_ERROR "${name} ${version}, which holds llama.cpp b${llamacpp_build}, cannot be "
                        "downloaded (see ${CMAKE_BINARY_DIR}/llamacpp-download.log): check the "
                        "network, or ${llamacpp_remedy}.")
  endif()
endfunction()

# Unpacks the archive's llama.cpp once, and whole or not at all.
function(llamacpp_unpack result)
  set(pin "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/llamacpp.txt")
  file(STRINGS "${pin}" line REGEX "==")
  if(NOT line MATCHES "^([a-z]+)==([0-9.]+) --hash=sha256:([0-9a-f]+)$")
    message(FATAL_ERROR "cmake/llamacpp.txt must pin one package by ==version and sha256.")
  endif()
  set(name ${CMAKE_MATCH_1})
  set(version ${CMAKE_MATCH_2})
  set(sha256 ${CMAKE_MATCH_3})
  set(folder "${CMAKE_BINARY_DIR}/llama.cpp-b${llamacpp_build}")
  if(NOT EXISTS "${folder}")
    llamacpp_archive(${name} ${version} ${sha256} archive)
    set(inside "${name}-${version}/thirdparty/llama.cpp")
    file(REMOVE_RECURSE "${folder}.part")
    file(ARCHIVE_EXTRACT INPUT "${archive}" DESTINATION "${folder}.part" PATTERNS "${inside}/*")
    file(RENAME "${folder}.part/${inside}" "${folder}")
    file(REMOVE_RECURSE "${folder}.part")
  endif()
  set(${result} "${folder}" PARENT_SCOPE)
endfunction()

if(llamacpp_asked)
  get_filename_component(llamacpp_source "${llamacpp_asked}" ABSOLUTE
                         BASE_DIR "${PROJECT_SOURCE_DIR}")
elseif(EXISTS "${PROJECT_SOURCE_DIR}/third_party/llama.cpp")
  set(llamacpp_source "${PROJECT_SOURCE_DIR}/third_party/llama.cpp")
else()
  llamacpp_unpack(llamacpp_source)
endif()
if(NOT EXISTS "${llamacpp_source}/include/llama.h")
  message(FATAL_ERROR "${llamacpp_source} is no checkout of llama.cpp (it has no "
                      "include/llama.h): ${llamacpp_remedy}.")
endif()
message(STATUS "llama.cpp source: ${llamacpp_source}")
file(CREATE_LINK "${llamacpp_source}" "${CMAKE_BINARY_DIR}/llamacpp-source" SYMBOLIC)

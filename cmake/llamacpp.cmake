# Finds llama.cpp's source and adds its two libraries, without its tools. Sets llamacpp_build,
# llamacpp_libraries (the targets a wheel carries) and, in the build folder, the link
# llamacpp-source. Looks at LLAMACPP_SOURCE_DIR, then third_party/llama.cpp, then the download
# that llamacpp.txt pins by its hash.

set(llamacpp_build 11549)
set(LLAMACPP_SOURCE_DIR "$ENV{LLAMACPP_SOURCE_DIR}" CACHE PATH "A checkout of llama.cpp to build")
set(llamacpp_remedy "set LLAMACPP_SOURCE_DIR to a checkout of llama.cpp b${llamacpp_build}, or put \
it at third_party/llama.cpp")

# The archive of the pin, from the user's cache or the package index; its hash is checked each time.
function(llamacpp_archive name version sha256 result)
  set(cache "$ENV{XDG_CACHE_HOME}")
  if(NOT cache)
    set(cache "$ENV{HOME}/.cache")
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
  file(COPY_FILE "${downloaded}" "${archive}.part" RESULT failure) # no cache is no error
  if(NOT failure)
    file(RENAME "${archive}.part" "${archive}")
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

if(LLAMACPP_SOURCE_DIR)
  set(llamacpp_source "${LLAMACPP_SOURCE_DIR}")
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

if(llamacpp_cuda)
  find_package(CUDAToolkit)
  if(NOT TARGET CUDA::cudart OR NOT TARGET CUDA::cublas)
    message(FATAL_ERROR "llamacpp_cuda=ON needs the CUDA toolkit with cuBLAS, and none was found: "
                        "install it, or set CUDAToolkit_ROOT to its folder.")
  endif()
  set(CMAKE_CUDA_ARCHITECTURES "${cuda_arch}")
  if(NOT TARGET CUDA::cuda_driver)
    message(STATUS "No CUDA driver library: ggml is built without virtual memory management")
    set(GGML_CUDA_NO_VMM ON)
  endif()
endif()

# What a build must not take from the machine it happens on is fixed here; a normal variable wins
# over an option of the same name. LLAMA_BUILD_* are off, as llama.cpp is not the top project.
set(BUILD_SHARED_LIBS ON)
set(LLAMA_BUILD_NUMBER ${llamacpp_build})
set(LLAMA_BUILD_COMMIT b${llamacpp_build})
set(LLAMA_OPENSSL OFF)
set(GGML_CCACHE OFF)
set(GGML_CUDA ${llamacpp_cuda})
set(GGML_CUDA_NCCL OFF)
set(GGML_OPENMP ${llamacpp_openmp})
set(GGML_RPC ${llamacpp_rpc})
set(GGML_NATIVE ${llamacpp_native})
set(GGML_CPU_ARM_ARCH "${llamacpp_cpu_arm_arch}")
set(GGML_BACKEND_DL OFF)
if(NOT llamacpp_native AND NOT llamacpp_cpu_arm_arch)
  set(GGML_BACKEND_DL ON)
  set(GGML_CPU_ALL_VARIANTS ON)
endif()
set(CMAKE_INSTALL_RPATH "$ORIGIN")
# llama.cpp asks git for a commit; unless its source is a checkout, that would be this project's.
set(ENV{GIT_CEILING_DIRECTORIES} "${llamacpp_source}/..")
add_subdirectory("${llamacpp_source}" llama.cpp EXCLUDE_FROM_ALL SYSTEM)

# Every shared library or loadable backend that llama.cpp's folders define.
function(llamacpp_collect directory result)
  set(found "")
  get_property(targets DIRECTORY "${directory}" PROPERTY BUILDSYSTEM_TARGETS)
  get_property(folders DIRECTORY "${directory}" PROPERTY SUBDIRECTORIES)
  foreach(target IN LISTS targets)
    get_target_property(type ${target} TYPE)
    if(type MATCHES "^(SHARED|MODULE)_LIBRARY$")
      list(APPEND found ${target})
    endif()
  endforeach()
  foreach(folder IN LISTS folders)
    llamacpp_collect("${folder}" inner)
    list(APPEND found ${inner})
  endforeach()
  set(${result} ${found} PARENT_SCOPE)
endfunction()

llamacpp_collect("${llamacpp_source}" llamacpp_libraries)
foreach(library IN LISTS llamacpp_libraries)
  # A wheel holds no symbolic links, so a library has one name.
  set_property(TARGET ${library} PROPERTY VERSION)
  set_property(TARGET ${library} PROPERTY SOVERSION)
  set_property(TARGET ${library} PROPERTY PUBLIC_HEADER)
  set_property(TARGET ${library} PROPERTY EXCLUDE_FROM_ALL OFF)
  set_property(TARGET ${library} PROPERTY UNITY_BUILD_RELOCATABLE ON) # ccache compares the text
  target_link_options(${library} PRIVATE -Wl,--disable-new-dtags)
endforeach()

# Adds llama.cpp's libraries, without its tools, from llamacpp_source. Sets llamacpp_libraries: the
# targets that a wheel carries.

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
if(SANITIZE STREQUAL thread) # a race is between two places: ggml's have to be watched as well
  set(LLAMA_SANITIZE_THREAD ON)
  set(GGML_SANITIZE_THREAD ON)
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
set(header_dir "${CMAKE_CURRENT_LIST_DIR}")
foreach(library IN LISTS llamacpp_libraries)
  # A wheel holds no symbolic links, so a library has one name.
  set_property(TARGET ${library} PROPERTY VERSION)
  set_property(TARGET ${library} PROPERTY SOVERSION)
  set_property(TARGET ${library} PROPERTY PUBLIC_HEADER)
  set_property(TARGET ${library} PROPERTY EXCLUDE_FROM_ALL OFF)
  set_property(TARGET ${library} PROPERTY UNITY_BUILD_RELOCATABLE ON) # ccache compares the text
  target_link_options(${library} PRIVATE -Wl,--disable-new-dtags)
  if(library MATCHES "^ggml-cpu") # the CPU backend, or a variant of it
    target_compile_options(${library} PRIVATE
      "$<$<COMPILE_LANGUAGE:C>:SHELL:-include \"${header_dir}/ggml_wait.h\">"
      "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include \"${header_dir}/amx_tile_loadconfig.h\">")
  endif()
endforeach()

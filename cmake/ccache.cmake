# Compiles through ccache where it is installed, such that a checkout in another folder finds what
# this one compiled: paths below the project count as relative, and the build folder's does not.

if(NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(CCACHE_EXECUTABLE ccache)
  if(CCACHE_EXECUTABLE)
    cmake_path(GET CMAKE_CURRENT_LIST_DIR PARENT_PATH project_dir)
    foreach(language C CXX CUDA)
      set(CMAKE_${language}_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env
          "CCACHE_BASEDIR=${project_dir}" CCACHE_NOHASHDIR=1 "${CCACHE_EXECUTABLE}")
    endforeach()
  endif()
endif()

# Sets cpu_features: the names, as /proc/cpuinfo prints them, of the instruction sets that the
# compiler may use in this build. native/__init__.py compares them with the CPU it starts on.

set(cpu_features_x86_64
    SSE3=pni SSSE3=ssse3 SSE4_1=sse4_1 SSE4_2=sse4_2 POPCNT=popcnt MOVBE=movbe LZCNT=abm AVX=avx
    AVX2=avx2 F16C=f16c FMA=fma BMI=bmi1 BMI2=bmi2 AVXVNNI=avx_vnni GFNI=gfni VAES=vaes
    VPCLMULQDQ=vpclmulqdq AVX512F=avx512f AVX512CD=avx512cd AVX512BW=avx512bw AVX512DQ=avx512dq
    AVX512VL=avx512vl AVX512IFMA=avx512ifma AVX512VBMI=avx512vbmi AVX512VBMI2=avx512_vbmi2
    AVX512VNNI=avx512_vnni AVX512BITALG=avx512_bitalg AVX512VPOPCNTDQ=avx512_vpopcntdq
    AVX512BF16=avx512_bf16 AVX512FP16=avx512_fp16 AMX_TILE=amx_tile AMX_INT8=amx_int8
    AMX_BF16=amx_bf16)
set(cpu_features_aarch64
    ARM_FEATURE_ATOMICS=atomics ARM_FEATURE_DOTPROD=asimddp ARM_FEATURE_MATMUL_INT8=i8mm
    ARM_FEATURE_FP16_VECTOR_ARITHMETIC=asimdhp ARM_FEATURE_BF16=bf16 ARM_FEATURE_SVE=sve
    ARM_FEATURE_SVE2=sve2 ARM_FEATURE_SME=sme)

set(flag "")
if(llamacpp_native)
  set(flag -march=native)
elseif(llamacpp_cpu_arm_arch)
  set(flag "-march=${llamacpp_cpu_arm_arch}")
endif()
execute_process(COMMAND "${CMAKE_C_COMPILER}" ${flag} -dM -E -x c /dev/null OUTPUT_VARIABLE macros
                COMMAND_ERROR_IS_FATAL ANY)
set(cpu_features "")
foreach(pair IN LISTS cpu_features_${CMAKE_SYSTEM_PROCESSOR})
  string(REGEX REPLACE "=.*" "" macro "${pair}")
  string(REGEX REPLACE ".*=" "" name "${pair}")
  if(macros MATCHES "#define __${macro}(__)? ")
    string(APPEND cpu_features " ${name}")
  endif()
endforeach()
string(STRIP "${cpu_features}" cpu_features)
